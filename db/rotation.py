"""Changing keys while the app serves: wrapped keys go under the active wrapping key, businesses get new data keys."""

from __future__ import annotations

import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from db import Conflict, Database
from db.cipher import Keyring, Undecryptable
from db.keys import CACHE_SECONDS, SECRETS

NOBODY = str(uuid.UUID(int=0))
BATCH = 500
# A process may go on for CACHE_SECONDS with the keys it has read: until then it could not open what a new one sealed.
SPREAD_SECONDS = CACHE_SECONDS + 60


@dataclass
class Rotation:
    """One run. Each key is a short transaction of its own, so that it may be broken off, run again, and run in several
    places at once; wrapping keys are asked between transactions. `counts` tells what happened so far, `faults` why
    whose keys cannot be opened. Raises KeysUnavailable and DatabaseUnavailable."""

    database: Database
    keyring: Keyring
    counts: Counter[str] = field(default_factory=Counter)
    faults: dict[str, list[str]] = field(default_factory=dict)

    def rewrap_all(self) -> None:
        """Put every wrapped key that is not under the active wrapping key under it."""
        for name in SECRETS:
            row = self._one(None, "SELECT wrapped, wrapping_key_id FROM platform_secrets WHERE secret_name = %s", name)
            if row is not None:
                self._rewrap(row, name, lambda *values, name=name: self._store_secret(name, *values), "secrets")
        for business_id, data_key_id in self._keys_to_wrap():
            self._rewrap_data_key(business_id, data_key_id)

    def renew_all(self) -> None:
        """Make a new data key for each business that got none since this began. New values are sealed with it after
        SPREAD_SECONDS; the old keys stay for what they sealed."""
        [(began,)] = self.database.once(None, "SELECT clock_timestamp()")
        after = NOBODY
        while True:
            rows = self.database.once(None, "SELECT list_businesses_to_rekey(%s, %s, %s)", [began, after, BATCH])
            for (after,) in rows:
                self._renew(after, began)
            if len(rows) < BATCH:
                return

    def _keys_to_wrap(self) -> Iterator[tuple[str, str]]:
        after = (NOBODY, NOBODY)
        while True:
            rows = self.database.once(
                None,
                "SELECT business_id, data_key_id FROM list_keys_to_wrap(%s, %s, %s, %s)",
                [self.keyring.active_id, *after, BATCH],
            )
            for row in rows:
                after = (row[0], row[1])
                yield after
            if len(rows) < BATCH:
                return

    def _rewrap_data_key(self, business_id: str, data_key_id: str) -> None:
        row = self._one(
            business_id,
            "SELECT wrapped, wrapping_key_id FROM data_keys WHERE business_id = %s AND data_key_id = %s",
            business_id,
            data_key_id,
        )
        if row is not None:
            self._rewrap(row, business_id, lambda *values: self._store(business_id, data_key_id, *values), "data_keys")

    def _rewrap(self, row: tuple[Any, ...], purpose: str, store: Callable[[bytes, bytes], bool], kind: str) -> None:
        old = bytes(row[0])
        if row[1] == self.keyring.active_id:
            return
        try:
            key = self.keyring.unwrap(old, row[1], purpose)
        except Undecryptable as fault:
            self.faults.setdefault(str(fault), []).append(purpose)
            return
        # Somebody else may have been faster; a key that was deleted meanwhile must not come back.
        self.counts[kind] += store(self.keyring.wrap(key, purpose), old)

    def _store_secret(self, name: str, new: bytes, old: bytes) -> bool:
        statement = (
            "UPDATE platform_secrets SET wrapped = %s, wrapping_key_id = %s WHERE secret_name = %s AND wrapped = %s"
            " RETURNING true"
        )
        return self._one(None, statement, new, self.keyring.active_id, name, old) is not None

    def _store(self, business_id: str, data_key_id: str, new: bytes, old: bytes) -> bool:
        statement = (
            "UPDATE data_keys SET wrapped = %s, wrapping_key_id = %s"
            " WHERE business_id = %s AND data_key_id = %s AND wrapped = %s RETURNING true"
        )
        values = (new, self.keyring.active_id, business_id, data_key_id, old)
        return self._one(business_id, statement, *values) is not None

    def _renew(self, business_id: str, began: datetime) -> None:
        statement = (
            "INSERT INTO data_keys (business_id, data_key_id, wrapped, wrapping_key_id, is_active, used_from)"
            " SELECT %s, %s, %s, %s, false, clock_timestamp() + make_interval(secs => %s)"
            " WHERE NOT EXISTS (SELECT 1 FROM data_keys WHERE business_id = %s AND created_at >= %s) RETURNING true"
        )
        wrapped = self.keyring.wrap(os.urandom(32), business_id)
        values = (business_id, str(uuid.uuid4()), wrapped, self.keyring.active_id, SPREAD_SECONDS, business_id, began)
        try:
            self.counts["new_data_keys"] += self._one(business_id, statement, *values) is not None
        except Conflict:
            self.counts["deleted_meanwhile"] += 1

    def _one(self, business_id: str | None, statement: str, *values: Any) -> tuple[Any, ...] | None:
        return next(iter(self.database.once(business_id, statement, values)), None)
