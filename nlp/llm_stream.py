"""Reading a reply while a model server streams it: Server-Sent Events, each with a piece of the answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from nlp import llm_replies
from nlp.llm_replies import BadReply

END = "[DONE]"
# What a stream says around each word takes many times the bytes of the word.
BYTES_PER_BYTE = 16


class Listener:
    """Whoever is told the pieces of an answer; knows whether there was a first one."""

    def __init__(self, on_text: Callable[[str], None]) -> None:
        self._on_text = on_text
        self.has_heard = False

    def __call__(self, text: str) -> None:
        """Pass on a piece."""
        if text:
            self.has_heard = True
            self._on_text(text)


def parsed(pieces: Iterable[bytes], listener: Listener, byte_cap: int) -> dict[str, Any]:
    """The fields of an answer from the bytes of a stream, read up to its end; each piece of text is passed on at once.
    `byte_cap` holds for the text and for each line. Raises BadReply."""
    reply = _Reply(byte_cap)
    for data in events(pieces, byte_cap):
        if data == END:
            reply.is_complete = True
            break
        listener(reply.take(data))
    listener(reply.end())
    return reply.fields


def events(pieces: Iterable[bytes], byte_cap: int) -> Iterator[str]:
    """The data of each event of a stream, however it is cut into pieces; raises BadReply for a line over the cap."""
    data: list[str] = []
    for line in _lines(pieces, byte_cap):
        if not line and data:
            yield "\n".join(data)
            data = []
        elif line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
    # Not every server ends its last event with an empty line.
    if data:
        yield "\n".join(data)


def _lines(pieces: Iterable[bytes], byte_cap: int) -> Iterator[str]:
    rest: list[bytes] = []
    held = 0
    for piece in pieces:
        *whole, last = piece.split(b"\n")
        for line in whole:
            yield _decoded(b"".join((*rest, line)))
            rest, held = [], 0
        rest.append(last)
        held += len(last)
        if held > byte_cap:
            raise BadReply("too_large")
    yield _decoded(b"".join(rest))


def _decoded(line: bytes) -> str:
    try:
        return line.decode().removesuffix("\r")
    except UnicodeDecodeError as error:
        raise BadReply("bad_response") from error


class _Reply:
    """What has come so far."""

    def __init__(self, byte_cap: int) -> None:
        self._bytes_left = byte_cap
        self._text: list[str] = []
        self._refusal: list[str] = []
        self._half = ""
        self._finish_reason: str | None = None
        self._model = ""
        self._usage: dict[str, Any] = {}
        self.is_complete = False

    def take(self, data: str) -> str:
        """Take in one chunk; the text that it adds."""
        try:
            chunk = json.loads(data)
            if chunk.get("error"):
                raise BadReply(_reason(chunk["error"]))
            self._model = self._model or llm_replies.model_name(chunk.get("model"))
            self._usage = chunk.get("usage") or self._usage
            return "".join([self._add(choice) for choice in chunk.get("choices") or () if not choice.get("index")])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise BadReply("bad_response") from error

    def _add(self, choice: dict[str, Any]) -> str:
        delta = choice.get("delta") or {}
        self._finish_reason = llm_replies.as_text(choice.get("finish_reason")) or self._finish_reason
        self._refusal.append(llm_replies.as_text(delta.get("refusal")) or "")
        return self._grown(delta.get("content") or "")

    def _grown(self, said: str) -> str:
        if said.isascii() and not self._half:
            return self._kept(said)
        # A character outside the basic plane may come as two halves in two chunks.
        whole = (self._half + said).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        self._half = whole[-1:] if "\ud800" <= whole[-1:] <= "\udbff" else ""
        return self._kept(llm_replies.as_text(whole.removesuffix(self._half)) or "")

    def _kept(self, text: str) -> str:
        self._bytes_left -= len(text.encode())
        if self._bytes_left < 0:
            raise BadReply("too_large")
        self._text.append(text)
        return text

    def end(self) -> str:
        """Nothing more comes; the text that this adds. Raises BadReply when the end is missing."""
        if self._finish_reason is None and not (self.is_complete and self.has_words):
            raise BadReply("bad_response")
        rest = "\ufffd" if self._half else ""
        self._text.append(rest)
        return rest

    @property
    def has_words(self) -> bool:
        """Whether the model said anything."""
        return any(self._text) or any(self._refusal)

    @property
    def fields(self) -> dict[str, Any]:
        """The answer's fields."""
        return {
            "text": "".join(self._text) or None,
            "refusal": "".join(self._refusal) or None,
            "finish_reason": self._finish_reason,
            "model": self._model,
            **llm_replies.tokens(self._usage),
        }


def _reason(error: Any) -> str:
    """An error in the middle of a stream has no status of its own."""
    details = error if isinstance(error, dict) else {}
    code, kind = details.get("code"), details.get("type")
    status = code if isinstance(code, int) and 400 <= code < 600 else 500
    if any("rate_limit" in str(word) or word == "insufficient_quota" for word in (code, kind)):
        status = 429
    return llm_replies.reason_of_status(status, str(code), str(kind))
