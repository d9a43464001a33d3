"""What gunicorn's parser reads a request from: the bytes that have arrived, and never the socket."""

from __future__ import annotations

import os

from gunicorn.http.unreader import Unreader

# gunicorn copies what it has not used of a piece again and again: of a whole body that would take minutes.
PIECE_BYTES = 8 * 1024


class ArrivedUnreader(Unreader):
    """Holds one request, and what came behind it, for a thread that must not wait for the rest of either."""

    def __init__(self) -> None:
        super().__init__()
        self._arrived = memoryview(b"")
        self.is_dry = False

    def hold(self, arrived: bytes) -> None:
        """The next request, of which everything is read."""
        self._arrived, self.is_dry = memoryview(arrived), False

    def chunk(self, size_hint: int | None = None) -> bytes:  # noqa: ARG002 — gunicorn's
        """The next piece. Nothing, once all is read: who asks for more has a request that was never whole, and where
        the next one begins is unknown (`is_dry`)."""
        piece, self._arrived = bytes(self._arrived[:PIECE_BYTES]), self._arrived[PIECE_BYTES:]
        self.is_dry = self.is_dry or not piece
        return piece

    def gather(self) -> None:
        """Put what is left where gunicorn looks for the next request."""
        self.buf.seek(0, os.SEEK_END)
        self.buf.write(self._arrived)
        self._arrived = memoryview(b"")
