"""The log of `make run` on its terminal as well. The server writes to a file, which waits for nobody; here its lines
are passed on by a thread that alone waits when standard output is a pipe that nobody reads."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

LOOK_SECONDS = 0.1
LAST_SECONDS = 1.0  # for the last lines, when the server has stopped
_PIECE_BYTES = 64 * 1024


class LogCopy:
    """What is added to a file from now on, to an open file of the system; ends without a word when that is closed."""

    def __init__(self, path: Path, target: int) -> None:
        self._path, self._target = path, target
        self._at = path.stat().st_size if path.exists() else 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="icmp-log-copy", daemon=True)

    def start(self) -> None:
        """Pass on what is there, then what comes."""
        with suppress(OSError):
            self._pass_on()
        self._thread.start()

    def end(self) -> None:
        """Pass on what is still there, as far as somebody reads it. May be called without a start."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(LAST_SECONDS)

    def _follow(self) -> None:
        with suppress(OSError):
            while not self._stop.wait(LOOK_SECONDS):
                self._pass_on()
            self._pass_on()

    def _pass_on(self) -> None:
        for piece in self._pieces():
            sent = 0
            while sent < len(piece):
                sent += os.write(self._target, piece[sent:])

    def _pieces(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            file.seek(self._at)
            while piece := file.read(_PIECE_BYTES):
                self._at += len(piece)
                yield piece
