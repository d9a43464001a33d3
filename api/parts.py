"""The parts of one running app, made once in `app.py`, and the way from a view to its business's rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

from flask import current_app, g

import auth
import db
from api import trail
from api.bell import Bell
from api.keeper import Keeper
from api.settings import Settings
from api.setups import Setups
from api.slots import Slots
from api.traces import Model, Traces
from db import businesses, config, keys
from db.batch import Single
from db.cipher import Cipher
from nlp.egress import Egress
from nlp.side_by_side import Threads


@dataclass(frozen=True)
class Parts:
    """What views work with; found in `app.extensions["icmp"]`."""

    settings: Settings
    database: db.Database
    key_store: keys.KeyStore
    model: Model
    threads: Threads
    egress: Egress
    keeper: Keeper
    turn_slots: Slots
    traces: Traces
    setups: Setups = field(default_factory=Setups)
    bell: Bell = field(default_factory=Bell)


def parts() -> Parts:
    """The current app's parts."""
    return cast(Parts, current_app.extensions["icmp"])


@contextmanager
def tenant(business_id: str, *, of_one_moment: bool = False) -> Iterator[db.Connection]:
    """A transaction on one business's rows; raises NotFound when the master names one that does not exist. With
    `of_one_moment` it is for reading what belongs together."""
    g.business_id = business_id
    with parts().database.transaction(business_id, of_one_moment=of_one_moment) as conn:
        if auth.caller().is_master and not businesses.known(conn, [business_id]):
            raise db.NotFound
        g.audit_scope = business_id
        yield conn
        trail.record_change(conn, business_id)


@contextmanager
def changed_setup(business_id: str) -> Iterator[db.Connection]:
    """A transaction that changes what turns read of a business's set-up, one after the other. Raises NotFound."""
    with tenant(business_id) as conn:
        config.lock(conn, business_id)
        yield conn


def alone(business_id: str) -> db.Connection:
    """Stands in for `tenant` where one statement reads all that a view gives: a round trip instead of three."""
    g.business_id = business_id
    conn = Single(parts().database, business_id)
    if auth.caller().is_master and not businesses.known(conn, [business_id]):
        raise db.NotFound
    g.audit_scope = business_id
    return conn


@contextmanager
def platform() -> Iterator[db.Connection]:
    """A transaction on what belongs to no business."""
    with parts().database.transaction(None) as conn:
        yield conn
        trail.record_change(conn, None)


def cipher(conn: db.Connection, business_id: str) -> Cipher:
    """The business's cipher."""
    return parts().key_store.cipher(conn, business_id)
