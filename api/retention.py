"""Retention over all businesses: one after another, in short transactions, to be stopped and begun again at will."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import db
from db import purge
from db.purge import Batch

BUSINESSES_AT_ONCE = 1000
FAULTS_IN_A_ROW = 3


@dataclass(frozen=True)
class Wish:
    """What to delete: None and False leave it alone. `rows` bounds one transaction."""

    messages_older_than: int | None
    events_older_than: int | None
    ended_sessions: bool
    rows: int


@dataclass
class Outcome:
    """Rows deleted by table so far, and the businesses that a fault kept from being finished, with that fault."""

    deleted: Counter[str] = field(default_factory=Counter)
    unfinished: dict[str, str] = field(default_factory=dict)


def run(database: db.Database, wish: Wish, outcome: Outcome) -> None:
    """Delete what is asked for; `outcome` grows with every committed batch. A fault ends the work on its business
    alone; several in a row end it all, as DatabaseUnavailable."""
    faults = 0
    for business_id in _businesses(database):
        try:
            for batch in _batches(database, wish, business_id):
                outcome.deleted.update(batch.deleted)
            faults = 0
        except db.DatabaseUnavailable as problem:
            outcome.unfinished[business_id] = str(problem)
            faults += 1
            if faults == FAULTS_IN_A_ROW:
                raise


def _businesses(database: db.Database) -> Iterator[str]:
    found, after_id = [""], None
    while found:
        with database.transaction(None) as conn:
            found = purge.list_business_ids(conn, after_id, BUSINESSES_AT_ONCE)
        yield from found
        after_id = found[-1] if found else None


def _batches(database: db.Database, wish: Wish, business_id: str) -> Iterator[Batch]:
    """Each batch after it was committed."""
    if wish.messages_older_than is not None:
        yield from _until_done(database, business_id, purge.delete_conversations, wish.messages_older_than, wish.rows)
    if wish.events_older_than is not None:
        yield from _until_done(database, business_id, purge.delete_events, wish.events_older_than, wish.rows)
    if wish.ended_sessions:
        with database.transaction(business_id) as conn:
            batch = purge.delete_sessions(conn, business_id)
        yield batch


def _until_done(
    database: db.Database, business_id: str, delete: Callable[..., Batch], days: int, rows: int
) -> Iterator[Batch]:
    batch = None
    while batch is None or batch.next_from is not None:
        with database.transaction(business_id) as conn:
            begin = None if batch is None else batch.next_from
            batch = delete(conn, business_id, older_than_days=days, limit=rows, begin=begin)
        yield batch
