"""The log of `make run` on its terminal as well. The server writes to a file, which waits for nobody; here its lines
are passed on by a thread that alone waits when standard output is a pipe that nobody reads."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

LOOK_SECONDS = 0.1
WAIT_SECONDS = 1.0  # for the first lines to be out, and for the last ones
_PIECE_BYTES = 64 * 1024


class LogCopy:
    """What is added to a file from now on, to an open file of the system; ends without a word when that is closed."""

    def __init__(self, path: Path, target: int) -> None:
        self._path, self._target = path, target
        status = path.stat() if path.exists() else None
        self._at, self._file = (status.st_size, status.st_ino) if status else (0, 0)
        self._stop, self._caught_up = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._follow, name="icmp-log-copy", daemon=True)

    def start(self) -> None:
        """Pass on what is there, then what comes; returns when the first is done, or takes too long."""
        self._thread.start()
        self._caught_up.wait(WAIT_SECONDS)

    def end(self) -> None:
        """Pass on what is still there, as far as somebody reads it. May be called without a start."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(WAIT_SECONDS)

    def _follow(self) -> None:
        with suppress(OSError):
            is_last = False
            while not is_last:
                is_last = self._stop.is_set()
                for piece in self._pieces():
                    self._write(piece)
                self._caught_up.set()
                self._stop.wait(LOOK_SECONDS)
        self._caught_up.set()

    def _write(self, piece: bytes) -> None:
        while piece:
            try:
                piece = piece[os.write(self._target, piece) :]
            except BlockingIOError:
                if self._stop.wait(LOOK_SECONDS):
                    raise

    def _pieces(self) -> Iterator[bytes]:
        """What came since the last look; nothing while the file is away, or when it is the target itself."""
        with suppress(FileNotFoundError), self._path.open("rb") as file:
            status = os.fstat(file.fileno())
            if os.path.samestat(status, os.fstat(self._target)):
                return
            if status.st_size < self._at or status.st_ino != self._file:  # cut off, or another one
                self._at, self._file = 0, status.st_ino
            file.seek(self._at)
            while self._at < status.st_size and (piece := file.read(_PIECE_BYTES)):
                self._at += len(piece)
                yield piece
