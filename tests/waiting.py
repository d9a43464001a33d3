"""Waiting for what happens elsewhere, and where nobody listens yet."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

PATIENCE_SECONDS = 90


def until(is_so: Callable[[], bool], told: Callable[[], str] = str) -> None:
    """Wait for a state; fails with what `told` says."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, told() or "it never came to pass"
        time.sleep(0.02)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
