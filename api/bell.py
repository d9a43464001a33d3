"""Who waits for a conversation's next turn in this process, and who of them looks now."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Bell:
    """Tells the requests of this process that wait for a conversation's turns when one has ended. Requests of other
    processes look at the database from time to time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, list[tuple[int, threading.Event]]] = {}

    @contextmanager
    def heard(self, conversation_id: str, number: int) -> Iterator[threading.Event]:
        """Set when turn `number` may be next, or has ended."""
        event = threading.Event()
        with self._lock:
            self._waiting.setdefault(conversation_id, []).append((number, event))
        try:
            yield event
        finally:
            with self._lock:
                waiting = self._waiting[conversation_id]
                waiting.remove((number, event))
                if not waiting:
                    del self._waiting[conversation_id]

    def ring(self, conversation_id: str, number: int) -> None:
        """Turn `number` has ended: who waits for it or for the next one looks now. The rest would look in vain."""
        with self._lock:
            waiting = self._waiting.get(conversation_id, [])
            following = min((each for each, _ in waiting if each > number), default=number)
            for each, event in waiting:
                if each <= following:
                    event.set()
