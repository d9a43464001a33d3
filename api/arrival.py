"""A request on its way in: when it is here whole, so that no thread has to wait for a slow client."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, field
from enum import Enum, auto

from api import bodies

MAX_HEAD_BYTES = 64 * 1024
# The frames of a chunked body come on top; what is within goes to the app, which has the finer limits.
MAX_CHUNKED_BYTES = bodies.MAX_EVENT_BYTES + 4 * MAX_HEAD_BYTES
_MAX_CHUNK_LINE = 4096
_MAX_CHUNKS = 16 * 1024  # each costs its reader as much as a kilobyte
_MAX_DIGITS = 18
# Without a way back (++): else many digits with something behind them take the square of their number.
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*+([0-9]++)[ \t]*+(?=\r\n)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r]*chunked[ \t]*\r\n", re.IGNORECASE)
_EXPECTS = re.compile(rb"\r\nexpect:[ \t]*100-continue[ \t]*(?=\r\n)", re.IGNORECASE)
ID = "[A-Za-z0-9._:-]{1,128}"  # of a request, as its sender may choose it
_REQUEST_ID = re.compile(rb"\r\nx-request-id:[ \t]*+(%s)[ \t]*+(?=\r\n)" % ID.encode(), re.IGNORECASE)


class State(Enum):
    """How far a request has come. WHOLE is also said of what is broken beyond repair: its reader refuses it at once."""

    ON_THE_WAY = auto()
    WHOLE = auto()
    HEAD_TOO_LONG = auto()
    BODY_TOO_LARGE = auto()


@dataclass
class Arrival:
    """The bytes of one request so far, and the time (`time.monotonic()`) until which they are waited for."""

    deadline: float
    data: bytearray = field(default_factory=bytearray)
    is_refused: bool = False
    _body: int = 0  # where the body begins; 0 while the head is incomplete
    _end: int | None = None  # where the body ends, when its length was announced
    _chunk: int = 0  # where the next chunk begins
    _chunks: int = 0  # how many are here

    def state(self) -> State:
        """How far it has come; cheap to ask after every read, because nothing is looked at twice."""
        if not self._body:
            found = self.data.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES)
            if found < 0:
                return State.HEAD_TOO_LONG if len(self.data) >= MAX_HEAD_BYTES else State.ON_THE_WAY
            self._read_head(found + 2)
        if self._end is not None:
            if self._end - self._body > bodies.MAX_EVENT_BYTES:
                return State.BODY_TOO_LARGE
            return State.WHOLE if len(self.data) >= self._end else State.ON_THE_WAY
        if self._is_last_chunk_here():
            return State.WHOLE
        is_too_large = len(self.data) > MAX_CHUNKED_BYTES or self._chunks >= _MAX_CHUNKS
        return State.BODY_TOO_LARGE if is_too_large else State.ON_THE_WAY

    def request_id(self) -> str:
        """As it was sent, if it is well-formed and the head is here; else a new one."""
        found = _REQUEST_ID.findall(self.data, 0, self._body)
        return found[0].decode() if len(found) == 1 else str(uuid.uuid4())

    def takes_up_expectation(self) -> bool:
        """Whether the client waits to be told to send its body; told once, the header is taken out."""
        found = _EXPECTS.search(self.data, 0, self._body)
        if found is None or self.state() is not State.ON_THE_WAY:
            return False
        removed = found.end() - found.start()
        del self.data[found.start() : found.end()]
        self._body -= removed
        self._chunk -= removed
        if self._end is not None:
            self._end -= removed
        return True

    def _read_head(self, end: int) -> None:
        self._body = self._chunk = end + 2
        head = bytes(self.data[:end])
        lengths, is_chunked = _LENGTH.findall(head), _CHUNKED.search(head) is not None
        if is_chunked and not lengths:
            return
        # Without a length there is no body. Lengths that are no number, or two of them, are refused by the reader.
        self._end = self._body + (_number(lengths[0]) if len(lengths) == 1 and not is_chunked else 0)

    def _is_last_chunk_here(self) -> bool:
        while self._chunks < _MAX_CHUNKS:
            line_end = self.data.find(b"\r\n", self._chunk, self._chunk + _MAX_CHUNK_LINE)
            if line_end < 0:
                return len(self.data) - self._chunk >= _MAX_CHUNK_LINE
            size = bytes(self.data[self._chunk : line_end]).partition(b";")[0].strip()
            if not re.fullmatch(rb"0*[0-9A-Fa-f]{1,15}", size):
                return True
            if int(size, 16) == 0:
                is_over = self.data.find(b"\r\n\r\n", line_end, line_end + MAX_HEAD_BYTES) >= 0
                return is_over or len(self.data) > line_end + MAX_HEAD_BYTES
            after = line_end + 2 + int(size, 16)
            if len(self.data) < after + 2:
                return False
            if self.data[after : after + 2] != b"\r\n":
                return True
            self._chunk = after + 2
            self._chunks += 1
        return False


def _number(digits: bytes) -> int:
    """A length; of more digits than any has, more than is taken."""
    digits = digits.lstrip(b"0") or b"0"
    return int(digits) if len(digits) <= _MAX_DIGITS else bodies.MAX_EVENT_BYTES + 1
