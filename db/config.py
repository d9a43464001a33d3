"""A business's set-up as a whole: one writer at a time."""

from __future__ import annotations

from db import Connection, NotFound, execute


def lock(conn: Connection, business_id: str) -> None:
    """Wait for whoever is changing the set-up; conversations go on meanwhile. Raises NotFound."""
    if not execute(conn, "SELECT 1 FROM businesses WHERE business_id = %s FOR NO KEY UPDATE", [business_id]):
        raise NotFound
