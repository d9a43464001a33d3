"""A business's set-up as a whole: one writer at a time, and nobody takes away what another one is about to name."""

from __future__ import annotations

from db import Connection, NotFound, execute

_GLOBAL = "hashtextextended('icmp.global_templates', 0)"


def lock(conn: Connection, business_id: str) -> None:
    """Wait for whoever is changing the set-up, or the global templates; conversations go on meanwhile. Comes before all
    other statements of a change: rows locked in another order would wait for each other. Raises NotFound."""
    execute(conn, f"SELECT pg_advisory_xact_lock_shared({_GLOBAL})")
    if not execute(conn, "SELECT 1 FROM businesses WHERE business_id = %s FOR NO KEY UPDATE", [business_id]):
        raise NotFound


def lock_global(conn: Connection) -> None:
    """Wait for everybody who is changing a set-up: stages name global templates. Not for long, for whoever comes after
    waits as well."""
    execute(conn, "SET LOCAL lock_timeout = '1s'")
    execute(conn, f"SELECT pg_advisory_xact_lock({_GLOBAL})")
