"""Where keys come from: data keys of businesses, the platform's own key, and the pepper of hashes."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections import OrderedDict
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from db import Connection, NotFound, execute, fetch_all, fetch_one
from db.cipher import Cipher, Keyring, Undecryptable, lacks

PLATFORM = "platform"
SECRETS = ("platform_data_key", "key_pepper")
CACHE_SECONDS = 300.0
_CACHE_SIZE = 1000
# /readyz is asked every few seconds by everybody around: it need not cost a call of KMS each time.
_CHECK_SECONDS = 10.0


@dataclass(frozen=True)
class PlatformSecrets:
    """Made once per database and stored wrapped: independent of the master key, so either can change alone."""

    pepper: bytes
    cipher: Cipher


class KeyStore:
    """Unwrapped keys of this process, kept at most five minutes: who loses the wrapping key soon loses the rest."""

    def __init__(self, keyring: Keyring, *, compresses: bool = True) -> None:
        """`compresses`: whether what may be compressed before it is encrypted is."""
        self.keyring = keyring
        self._compresses = compresses
        self._lock = threading.Lock()
        self._ciphers: OrderedDict[str, tuple[float, Cipher]] = OrderedDict()
        self._platform: tuple[float, PlatformSecrets] | None = None

    def platform(self, conn: Connection, *, max_age_s: float = CACHE_SECONDS) -> PlatformSecrets:
        """The platform's secrets; made on an empty database. Raises Undecryptable when the wrapping key is wrong, and
        KeysUnavailable."""
        kept = self._platform
        if kept is not None and time.monotonic() - kept[0] < max_age_s:
            return kept[1]
        key_id = str(uuid.UUID(int=0))
        (data_key, _), (pepper, is_new) = (self._secret(conn, name) for name in SECRETS)
        loaded = PlatformSecrets(pepper, Cipher(PLATFORM, {key_id: AESGCM(data_key)}, key_id))
        if not is_new:  # else they may yet be rolled back, with all that they were used for
            self._platform = (time.monotonic(), loaded)
        return loaded

    def check(self, conn: Connection) -> None:
        """Raises Undecryptable when anything stored is wrapped by a key that is not at hand, and KeysUnavailable when
        wrapped keys cannot be opened now."""
        rows = fetch_all(
            conn, "SELECT list_wrapping_keys() UNION SELECT wrapping_key_id FROM platform_secrets ORDER BY 1"
        )
        for (wrapping_key_id,) in rows:
            if wrapping_key_id not in self.keyring.keys:
                raise Undecryptable(lacks(wrapping_key_id))
        self.platform(conn, max_age_s=_CHECK_SECONDS)

    def _secret(self, conn: Connection, name: str) -> tuple[bytes, bool]:
        """The secret, and whether this transaction made it."""
        row = _find_secret(conn, name)
        is_new = row is None
        if row is None:
            execute(
                conn,
                "INSERT INTO platform_secrets (secret_name, wrapped, wrapping_key_id) VALUES (%s, %s, %s)"
                " ON CONFLICT DO NOTHING",
                [name, self.keyring.wrap(os.urandom(32), name), self.keyring.active_id],
            )
            row = _find_secret(conn, name)
        if row is None:
            raise NotFound
        return self.keyring.unwrap(row[0], row[1], name), is_new

    def create(self, conn: Connection, business_id: str) -> None:
        """A new business's first data key."""
        execute(
            conn,
            "INSERT INTO data_keys (business_id, data_key_id, wrapped, wrapping_key_id) VALUES (%s, %s, %s, %s)",
            [business_id, str(uuid.uuid4()), self.keyring.wrap(os.urandom(32), business_id), self.keyring.active_id],
        )

    def destroy(self, conn: Connection, business_id: str) -> None:
        """Without its data keys nothing that was encrypted for the business can be read again, by anybody."""
        execute(conn, "DELETE FROM data_keys WHERE business_id = %s", [business_id])

    def cipher(self, conn: Connection, business_id: str) -> Cipher:
        """The cipher of a business; raises NotFound when the business has no key, as when it was deleted, and
        KeysUnavailable."""
        with self._lock:
            kept = self._ciphers.get(business_id)
        if kept is not None and time.monotonic() - kept[0] < CACHE_SECONDS:
            return kept[1]
        loaded = self._load(conn, business_id)
        with self._lock:
            self._ciphers[business_id] = (time.monotonic(), loaded)
            self._ciphers.move_to_end(business_id)
            while len(self._ciphers) > _CACHE_SIZE:
                self._ciphers.popitem(last=False)
        return loaded

    def forget(self, business_id: str) -> None:
        """Drop a business's keys from memory."""
        with self._lock:
            self._ciphers.pop(business_id, None)

    def _load(self, conn: Connection, business_id: str) -> Cipher:
        rows = fetch_all(
            conn,
            "SELECT data_key_id, wrapped, wrapping_key_id, used_from <= clock_timestamp() FROM data_keys"
            " WHERE business_id = %s ORDER BY used_from, data_key_id",
            [business_id],
        )
        usable = [row[0] for row in rows if row[3]]
        if not usable:
            raise NotFound
        keys = {row[0]: AESGCM(self.keyring.unwrap(bytes(row[1]), row[2], business_id)) for row in rows}
        return Cipher(business_id, keys, usable[-1], compresses=self._compresses)


def _find_secret(conn: Connection, name: str) -> tuple[bytes, str] | None:
    row = fetch_one(conn, "SELECT wrapped, wrapping_key_id FROM platform_secrets WHERE secret_name = %s", [name])
    return None if row is None else (bytes(row[0]), row[1])
