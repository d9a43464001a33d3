"""What a model server may send when it is asked to stream, well and badly."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tests.nlp import model_server as play
from tests.nlp.model_server import Behaviour, Handler

DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}


def event(body: Any) -> bytes:
    """One event with this JSON."""
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def chunk(content: str | None = None, finish_reason: str | None = None, **delta: Any) -> bytes:
    """One piece of an answer."""
    told = delta if content is None else {"content": content, **delta}
    choice = {"index": 0, "delta": told, "finish_reason": finish_reason}
    return event({"object": "chat.completion.chunk", "model": "m-1", "choices": [choice], "usage": None})


def usage(counts: Any = None) -> bytes:
    """The last piece, which only counts."""
    return event({"object": "chat.completion.chunk", "model": "m-1", "choices": [], "usage": counts or USAGE})


def words(*said: str) -> list[bytes]:
    """A good answer in these pieces."""
    return [chunk("", role="assistant"), *map(chunk, said), chunk(finish_reason="stop"), usage(), DONE]


def streams(pieces: Iterable[bytes], *, ends: bool = True, content_type: str = "text/event-stream") -> Behaviour:
    """Send the pieces, each on its own; without `ends` the body is left open."""

    def stream(handler: Handler) -> None:
        begin(handler, content_type)
        for piece in pieces:
            send(handler, piece)
        if ends:
            handler.wfile.write(b"0\r\n\r\n")
        else:
            play.hangs(handler)

    return stream


def begin(handler: Handler, content_type: str = "text/event-stream") -> None:
    """The head of a stream."""
    handler.send_response(200)
    handler.send_header("Content-Type", content_type)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()


def send(handler: Handler, piece: bytes) -> None:
    """One piece, at once."""
    handler.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
    handler.wfile.flush()


def resets_after(pieces: Iterable[bytes]) -> Behaviour:
    """Abort the connection after the pieces."""

    def reset(handler: Handler) -> None:
        begin(handler)
        for piece in pieces:
            send(handler, piece)
        play.resets(handler)

    return reset


def drips(handler: Handler) -> None:
    """A comment now and then, as servers send them to keep a connection open."""
    begin(handler)
    send(handler, chunk("Hel"))
    handler.close_connection = True
    while not handler.server.released.wait(0.02):
        send(handler, b": still there\n\n")


def floods(piece: bytes) -> Behaviour:
    """The piece again and again, 200 MB of it."""

    def flood(handler: Handler) -> None:
        begin(handler)
        handler.close_connection = True
        batch = piece * (65_536 // len(piece) + 1)
        for _ in range(200_000_000 // len(batch)):
            send(handler, batch)
            handler.server.flooded += len(batch)

    return flood
