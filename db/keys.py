"""Where keys come from: a data key per business, the platform's own key, and the pepper of hashes."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections import OrderedDict
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from db import Connection, NotFound, execute, fetch_all, fetch_one
from db.cipher import Cipher, Keyring

PLATFORM = "platform"
_CACHE_SECONDS = 300.0
_CACHE_SIZE = 1000


@dataclass(frozen=True)
class PlatformSecrets:
    """Made once per database and stored wrapped: independent of the master key, so either can change alone."""

    pepper: bytes
    cipher: Cipher


class KeyStore:
    """Unwrapped keys of this process. Data keys are kept at most five minutes after they were read."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._lock = threading.Lock()
        self._ciphers: OrderedDict[str, tuple[float, Cipher]] = OrderedDict()
        self._platform: PlatformSecrets | None = None

    def platform(self, conn: Connection) -> PlatformSecrets:
        """The platform's secrets; made on an empty database. Raises Undecryptable when ENCRYPTION_KEY is wrong."""
        if self._platform is None:
            key_id = str(uuid.UUID(int=0))
            key = AESGCM(self._secret(conn, "platform_data_key"))
            platform_cipher = Cipher(PLATFORM, {key_id: key}, key_id)
            self._platform = PlatformSecrets(self._secret(conn, "key_pepper"), platform_cipher)
        return self._platform

    def _secret(self, conn: Connection, name: str) -> bytes:
        wrapped = self._keyring.wrap(os.urandom(32), name)
        execute(
            conn,
            "INSERT INTO platform_secrets (secret_name, wrapped, wrapping_key_id) VALUES (%s, %s, %s)"
            " ON CONFLICT DO NOTHING",
            [name, wrapped, self._keyring.active_id],
        )
        row = fetch_one(conn, "SELECT wrapped, wrapping_key_id FROM platform_secrets WHERE secret_name = %s", [name])
        if row is None:
            raise NotFound
        return self._keyring.unwrap(bytes(row[0]), row[1], name)

    def create(self, conn: Connection, business_id: str) -> None:
        """A new business's first data key."""
        execute(
            conn,
            "INSERT INTO data_keys (business_id, data_key_id, wrapped, wrapping_key_id) VALUES (%s, %s, %s, %s)",
            [
                business_id,
                str(uuid.uuid4()),
                self._keyring.wrap(os.urandom(32), business_id),
                self._keyring.active_id,
            ],
        )

    def cipher(self, conn: Connection, business_id: str) -> Cipher:
        """The cipher of a business; raises NotFound when the business has no key, as when it was deleted."""
        with self._lock:
            kept = self._ciphers.get(business_id)
        if kept is not None and time.monotonic() - kept[0] < _CACHE_SECONDS:
            return kept[1]
        loaded = self._load(conn, business_id)
        with self._lock:
            self._ciphers[business_id] = (time.monotonic(), loaded)
            self._ciphers.move_to_end(business_id)
            while len(self._ciphers) > _CACHE_SIZE:
                self._ciphers.popitem(last=False)
        return loaded

    def forget(self, business_id: str) -> None:
        """Drop a deleted business's key from memory."""
        with self._lock:
            self._ciphers.pop(business_id, None)

    def _load(self, conn: Connection, business_id: str) -> Cipher:
        rows = fetch_all(
            conn,
            "SELECT data_key_id, wrapped, wrapping_key_id, is_active FROM data_keys WHERE business_id = %s",
            [business_id],
        )
        active = [row[0] for row in rows if row[3]]
        if not active:
            raise NotFound
        keys = {row[0]: AESGCM(self._keyring.unwrap(bytes(row[1]), row[2], business_id)) for row in rows}
        return Cipher(business_id, keys, active[0])
