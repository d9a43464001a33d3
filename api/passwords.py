"""Passwords: argon2id, a few at once, so that logins cannot take the processors from everybody else."""

from __future__ import annotations

import base64
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError

from api.errors import TooManyPasswords

AT_ONCE = 4
PATIENCE_SECONDS = 2.0  # of a burst, for which a password takes some 0.15 s of a processor
_HASHER = PasswordHasher()
_slots = threading.BoundedSemaphore(AT_ONCE)


def hashed(password: str) -> str:
    """What is stored of a password; raises TooManyPasswords."""
    with _slot():
        return _HASHER.hash(password)


def fits(password: str, password_hash: str | None) -> bool:
    """Whether it is the password; None takes as long as a wrong one. Raises TooManyPasswords."""
    with _slot():
        try:
            return _HASHER.verify(password_hash or _DECOY, password)
        except VerificationError:
            return False


@contextmanager
def _slot() -> Iterator[None]:
    """Whoever finds no slot free waits a little, and is sent away then: waiting holds a thread that others need."""
    if not _slots.acquire(timeout=PATIENCE_SECONDS):
        raise TooManyPasswords
    try:
        yield
    finally:
        _slots.release()


def _decoy() -> str:
    """A hash with today's costs that no password is known for."""
    salt, digest = (
        base64.b64encode(secrets.token_bytes(length)).decode().rstrip("=")
        for length in (_HASHER.salt_len, _HASHER.hash_len)
    )
    costs = f"m={_HASHER.memory_cost},t={_HASHER.time_cost},p={_HASHER.parallelism}"
    return f"$argon2id$v=19${costs}${salt}${digest}"


_DECOY = _decoy()
