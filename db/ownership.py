"""One owner per data folder: its lock, and what an owner that crashed left running."""

from __future__ import annotations

import fcntl
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil


class AlreadyHeld(Exception):
    """Another living process holds this lock file."""


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold `path` as a lock that the kernel gives back when this process ends, however it ends."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyHeld(f"{path.parent} is in use by another running process") from None
        yield


def leftover(pid_file: Path, argument: str) -> psutil.Process | None:
    """The living process of `pid_file` that was started with `argument`; for the holder of the lock only.

    The number alone proves nothing: after a reboot it may be an unrelated process.
    """
    try:
        process = psutil.Process(int(pid_file.read_text().split()[0]))
        return process if argument in process.cmdline() else None
    except (FileNotFoundError, IndexError, ValueError, psutil.NoSuchProcess, psutil.AccessDenied):
        return None


def stop(process: psutil.Process, *, gently: signal.Signals, firmly: signal.Signals, patience_seconds: float) -> None:
    """Stop a process that is not our child and wait until it is gone."""
    with suppress(psutil.NoSuchProcess):
        process.send_signal(gently)
        try:
            process.wait(patience_seconds)
        except psutil.TimeoutExpired:
            process.send_signal(firmly)
            process.wait(patience_seconds)
