"""A bounded number of threads for work beside the caller's own; never a queue."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


class Threads:
    """At most `size` pieces of work at a time. Starts its threads when first used, so that it survives a fork."""

    def __init__(self, size: int) -> None:
        self._free = threading.BoundedSemaphore(size)
        self._executor = ThreadPoolExecutor(max_workers=size, thread_name_prefix="side-by-side")

    def start(self, work: Callable[[], Result]) -> Future[Result] | None:
        """The work's future; None when no thread is free, so that nothing waits behind other people's calls. The work
        sees the caller's context variables: logs and traces know whose it is."""
        if not self._free.acquire(blocking=False):
            return None
        try:
            future = self._executor.submit(contextvars.copy_context().run, work)
        except RuntimeError:  # the process is shutting down
            self._free.release()
            return None
        future.add_done_callback(lambda _: self._free.release())
        return future

    def close(self) -> None:
        """Let running work finish, start no more."""
        self._executor.shutdown(wait=False)
