"""What the query planner knows of tables that are still small: decision 0028."""

from __future__ import annotations

from db import Database

YOUNG_ROWS = 100_000  # above, autovacuum looks often enough for what a table grows in a minute


def refresh(database: Database) -> int:
    """Analyze the young tables that have doubled; how many those were. Waits for nobody. Raises DatabaseUnavailable."""
    return int(database.once(None, "SELECT analyze_young_tables(%s)", [YOUNG_ROWS])[0][0])
