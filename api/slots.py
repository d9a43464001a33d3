"""How many messages one process answers at a time, so that slow models leave threads for everything else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from api.errors import TooManyTurns

Result = TypeVar("Result")


class Slots:
    """A bound without a queue: beyond it a caller hears at once when to come again."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._free = threading.BoundedSemaphore(size)

    def taken(self) -> Slot:
        """One of the slots; raises TooManyTurns."""
        if not self._free.acquire(blocking=False):
            raise TooManyTurns(f"{self._size} messages are being answered by this process")
        return Slot(self._free)


class Slot:
    """One message's place; given back once."""

    def __init__(self, free: threading.BoundedSemaphore) -> None:
        self._free = free

    def used(self, work: Callable[[], Result]) -> Result:
        """The work's result; the slot is free after it."""
        try:
            return work()
        finally:
            self.free()

    def free(self) -> None:
        """Give it back."""
        self._free.release()
