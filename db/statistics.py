"""What the query planner knows of tables that are still small: decision 0028."""

from __future__ import annotations

from db import Database

YOUNG_ROWS = 100_000  # above, autovacuum looks often enough for what a table grows in a minute
AT_ONCE = 20  # tables


def refresh(database: Database) -> int:
    """Analyze the young tables that have doubled; how many. Waits for no lock. Raises DatabaseUnavailable."""
    for count in range(AT_ONCE):
        if not database.once(None, "SELECT analyze_young_table(%s)", [YOUNG_ROWS])[0][0]:
            return count
    return AT_ONCE
