"""System calls that are over at once, made without giving the interpreter away.

Python lets another thread run during every call into the kernel, however short; with a few dozen busy threads each of
these costs two changes of threads. What may wait, as sending and receiving, is no matter of this room."""

from __future__ import annotations

import ctypes
import os
import select
import uuid
from collections.abc import Callable

_libc = ctypes.PyDLL(None)
_NEWS = select.POLLIN | select.POLLERR | select.POLLHUP


class _Poll(ctypes.Structure):
    _fields_ = (("descriptor", ctypes.c_int), ("events", ctypes.c_short), ("found", ctypes.c_short))


_poll = _libc.poll
_poll.argtypes = (ctypes.POINTER(_Poll), ctypes.c_ulong, ctypes.c_int)


def has_news(descriptor: int) -> bool:
    """Whether a socket has something to read, an end or an error among it. Something is also what cannot be asked."""
    return descriptor < 0 or bool(_poll(ctypes.byref(_Poll(descriptor, _NEWS, 0)), 1, 0))


def _drawing() -> Callable[[int], bytes]:
    """The kernel's generator, as os.urandom has it."""
    try:
        getrandom = _libc.getrandom
    except AttributeError:  # not on every system
        return os.urandom
    getrandom.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint)
    getrandom.restype = ctypes.c_ssize_t

    def draw(count: int) -> bytes:
        room = ctypes.create_string_buffer(count)
        return room.raw if getrandom(room, count, 0) == count else os.urandom(count)

    return draw


random_bytes: Callable[[int], bytes] = _drawing()


def new_id() -> str:
    """A random UUID, version 4."""
    return str(uuid.UUID(bytes=random_bytes(16), version=4))
