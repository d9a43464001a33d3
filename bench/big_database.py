"""Command line: fill an empty database with as many businesses, messages and events as a large platform has.

Rows are copied in the order of their time, the businesses mixed, as traffic would have written them; every ciphertext
is a real one. Needs a superuser: references are right by construction, and are not checked.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

# `python bench/big_database.py` puts bench/ on the path, not the folder that holds it.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psycopg2
import psycopg2.extensions

from api.setting_reader import BadSetting
from api.settings import from_environment
from bench import big_rows
from db import embedded, migrate


class Feed(io.RawIOBase):
    """Lines as the file that COPY reads from."""

    def __init__(self, lines: Iterator[str]) -> None:
        super().__init__()
        self._lines = lines
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        """At least one byte while there are lines."""
        parts, length = [self._rest], len(self._rest)
        while length < size and (lines := "".join(islice(self._lines, 100))):
            parts.append(lines.encode())
            length += len(parts[-1])
        whole = b"".join(parts)
        self._rest = whole[size:]
        return whole[:size]


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill the database; prints what was made as JSON. 0 all well, 2 could not."""
    options = _options(arguments)
    try:
        settings = from_environment(os.environ | {"DATABASE_URL": options.database_url or "postgresql:///icmp"})
    except BadSetting as fault:
        print(f"big_database.py: {fault}", file=sys.stderr)
        return 2
    with ExitStack() as stack:
        url = options.database_url or stack.enter_context(embedded.running(options.data_dir / "postgres"))
        plan = big_rows.Plan(
            options.businesses, options.messages, options.events, options.stages, options.days, options.ledger_bytes
        )
        print(json.dumps(fill(url, plan, settings.encryption_keys), indent=2))
    return 0


def fill(url: str, plan: big_rows.Plan, encryption_keys: tuple[tuple[str, bytes], ...]) -> dict[str, Any]:
    """Migrate and fill the database; seconds and rows by table, and the ids of the three businesses to measure."""
    migrate.apply(url)
    made: dict[str, Any] = {"rows": {}, "seconds": {}, "businesses": plan.measured}
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor, _without_indexes(cursor):
            # References are right by construction; checking each of them would take most of the time.
            cursor.execute("SET LOCAL session_replication_role = replica")
            for table, columns, lines in big_rows.tables(plan, encryption_keys):
                started = time.monotonic()
                cursor.copy_expert(f"COPY {table} ({columns}) FROM STDIN (FORMAT csv)", Feed(lines), size=1 << 20)
                made["rows"][table] = cursor.rowcount
                made["seconds"][table] = round(time.monotonic() - started, 1)
        connection.set_isolation_level(psycopg2.extensions.ISOLATION_LEVEL_AUTOCOMMIT)
        with connection.cursor() as cursor:
            cursor.execute("VACUUM (ANALYZE)")
    finally:
        connection.close()
    return made


@contextmanager
def _without_indexes(cursor: Any) -> Iterator[None]:
    """Drops the indexes that are no constraint's and builds them anew at the end: millions of insertions in random
    order take far longer."""
    cursor.execute(
        "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
        " AND indexname NOT IN (SELECT conname FROM pg_constraint)"
    )
    indexes = cursor.fetchall()
    for name, _ in indexes:
        cursor.execute(f"DROP INDEX {name}")
    yield
    cursor.execute("SET LOCAL maintenance_work_mem = '256MB'")
    for _, definition in indexes:
        cursor.execute(definition)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="ICMP_API_KEY and ENCRYPTION_KEY are read from the environment, as the app does."
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--database-url", help="of an empty database; its owner, a superuser")
    where.add_argument("--data-dir", type=Path, help="start the embedded PostgreSQL here: the app's own DATA_DIR")
    parser.add_argument("--businesses", type=int, default=10_000, help="at least 3")
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--stages", type=int, default=50, help="of the business `wide`; the others have 3")
    parser.add_argument("--days", type=int, default=365, help="how far back the first row lies")
    parser.add_argument("--ledger-bytes", type=int, default=1000, help="text in each step of the ledger")
    options = parser.parse_args(arguments)
    if options.businesses < 3:
        parser.error("--businesses: at least 3")
    return options


if __name__ == "__main__":
    raise SystemExit(main())
