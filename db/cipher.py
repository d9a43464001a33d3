"""Envelope encryption of columns: AES-256-GCM with data keys per business, wrapped by a key from outside."""

from __future__ import annotations

import functools
import hashlib
import hmac
import json
import os
import uuid
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from isal import isal_zlib

from json_text import encoded

_PLAIN, _COMPRESSED = b"\x01", b"\x02"
_NONCE_BYTES = 12
# From here on it is worth compressing a value first (docs/decisions/0031): prompts are most of what a turn writes.
COMPRESSED_BYTES = 1024
_LEVEL = 1  # of 3; level 0 is faster still, and lengthens what does not compress


class Undecryptable(Exception):
    """Stored data does not fit the keys at hand."""


def bound(*parts: str) -> bytes:
    """Associated data that is unambiguous: each part is preceded by its length, so parts cannot be shifted."""
    return b"".join(map(_measured, ("icmp1", *parts)))


def _measured(part: str) -> bytes:
    encoded = part.encode()
    return len(encoded).to_bytes(4, "big") + encoded


# A turn seals and opens dozens of values of few columns.
_bound_to_column = functools.lru_cache(maxsize=4096)(bound)


def seal(key: AESGCM, plain: bytes, associated: bytes) -> bytes:
    """nonce(12) | ciphertext | tag(16)."""
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + key.encrypt(nonce, plain, associated)


def unseal(key: AESGCM, sealed: bytes, associated: bytes) -> bytes:
    """The plaintext; raises Undecryptable when key, data or associated data differ."""
    try:
        return key.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], associated)
    except (InvalidTag, ValueError) as error:
        raise Undecryptable("wrong key, or the value was moved or altered") from error


class WrappingKey(Protocol):
    """A key from outside that seals other keys, bound to what they are for: a business's id or a secret's name."""

    def wrap(self, key: bytes, purpose: str) -> bytes:
        """The key, sealed. Raises KeysUnavailable."""

    def unwrap(self, wrapped: bytes, purpose: str) -> bytes:
        """The key; raises Undecryptable when it is another's, was altered or was sealed for another purpose, and
        KeysUnavailable."""


@dataclass(frozen=True)
class LocalKey:
    """A wrapping key from ENCRYPTION_KEY."""

    key: AESGCM

    def wrap(self, key: bytes, purpose: str) -> bytes:
        """The key, sealed."""
        return seal(self.key, key, bound("wrap", purpose))

    def unwrap(self, wrapped: bytes, purpose: str) -> bytes:
        """The key; raises Undecryptable."""
        return unseal(self.key, wrapped, bound("wrap", purpose))


@dataclass(frozen=True)
class Keyring:
    """The wrapping keys at hand: id → key; `active_id` wraps what is new."""

    keys: Mapping[str, WrappingKey]
    active_id: str

    @classmethod
    def of(cls, keys: tuple[tuple[str, bytes], ...]) -> Keyring:
        """From (id, 32 bytes) pairs, the first of which is active."""
        return cls({key_id: LocalKey(AESGCM(key)) for key_id, key in keys}, keys[0][0])

    def wrap(self, key: bytes, purpose: str) -> bytes:
        """A key sealed under the active wrapping key. Raises KeysUnavailable."""
        return self.keys[self.active_id].wrap(key, purpose)

    def unwrap(self, wrapped: bytes, wrapping_key_id: str, purpose: str) -> bytes:
        """The key; raises Undecryptable, also when the wrapping key is not at hand, and KeysUnavailable."""
        if wrapping_key_id not in self.keys:
            raise Undecryptable(lacks(wrapping_key_id))
        return self.keys[wrapping_key_id].unwrap(wrapped, purpose)


def lacks(wrapping_key_id: str) -> str:
    """Which setting lacks this wrapping key. ARNs of AWS KMS have colons, ids in ENCRYPTION_KEY cannot."""
    setting = "KMS_UNWRAP_KEY_IDS" if ":" in wrapping_key_id else "ENCRYPTION_KEY"
    return f"{setting} holds no key named {wrapping_key_id!r}"


@dataclass(frozen=True)
class Cipher:
    """Encrypts the columns of one business (or of the platform, where `business_id` is "platform").
    Layout: 0x01, or 0x02 for what was compressed (zlib) | data key id(16) | nonce(12) | ciphertext | tag(16)."""

    business_id: str
    keys: Mapping[str, AESGCM]
    active_id: str
    compresses: bool = True

    def encrypt(self, table: str, column: str, row_id: str, value: Any, *, may_be_long: bool = False) -> bytes:
        """Any JSON value, bound to its business, table, column and row; what `may_be_long` is compressed if it is."""
        (key_id, key), plain, associated = self._active, encoded(value), self._associated(table, column, row_id)
        if not (may_be_long and self.compresses) or len(plain) < COMPRESSED_BYTES:
            return _PLAIN + key_id + seal(key, plain, associated)
        return _COMPRESSED + key_id + seal(key, isal_zlib.compress(plain, _LEVEL), associated + _COMPRESSED)

    def decrypt(self, table: str, column: str, row_id: str, stored: bytes | memoryview) -> Any:
        """The JSON value; raises Undecryptable."""
        raw = bytes(stored)
        version, key, associated = raw[:1], self._by_id.get(raw[1:17]), self._associated(table, column, row_id)
        if version not in (_PLAIN, _COMPRESSED) or key is None:
            raise Undecryptable(f"{table}.{column} names no known data key")
        if version == _COMPRESSED:
            # Bound to its form as well: nobody can have it read as the other one.
            text = zlib.decompress(unseal(key, raw[17:], associated + _COMPRESSED)).decode()
        else:
            text = unseal(key, raw[17:], associated).decode()
        # Most values are texts, and most texts have nothing escaped: a history has a hundred of them.
        return text[1:-1] if text[:1] == '"' and "\\" not in text else json.loads(text)

    def _associated(self, table: str, column: str, row_id: str) -> bytes:
        return _bound_to_column(self.business_id, table, column) + _measured(row_id)

    @functools.cached_property
    def _by_id(self) -> dict[bytes, AESGCM]:
        return {uuid.UUID(key_id).bytes: key for key_id, key in self.keys.items()}

    @functools.cached_property
    def _active(self) -> tuple[bytes, AESGCM]:
        return uuid.UUID(self.active_id).bytes, self.keys[self.active_id]


def keyed_hash(key: bytes, text: str) -> bytes:
    """HMAC-SHA256: found by equality, useless without the key."""
    return hmac.digest(key, text.encode(), hashlib.sha256)
