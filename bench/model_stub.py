"""A stand-in for a model's server: Chat Completions with a schema or without, streamed or whole, at a set speed.

    python -m bench.model_stub --port 9100

`POST /config {"first_token_ms": 300, "token_ms": 10, "tokens": 40}` sets the speed: the last of `tokens` leaves
first_token_ms + (tokens - 1) * token_ms after the request came, streamed or not. `POST /reset` forgets what was seen,
`GET /stats` counts it, `GET /turns` has a row for each turn. One asyncio process; requests are not pipelined.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

from bench import stub_answers, stub_stats

MODEL = "bench-stub"
SLACK_SECONDS = 0.0005  # tokens that are due this soon leave with the present one
_HEAD_END = b"\r\n\r\n"
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found"}
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


@dataclass(frozen=True)
class Speed:
    """How fast the stub answers."""

    first_token_ms: float = 0.0
    token_ms: float = 0.0
    tokens: int = 40

    @property
    def call_seconds(self) -> float:
        """How long a call takes."""
        return (self.first_token_ms + max(0, self.tokens - 1) * self.token_ms) / 1000


@dataclass
class State:
    """What the connections share."""

    speed: Speed
    stats: stub_stats.Stats

    def configure(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Set the named parts of the speed; raises KeyError, TypeError and ValueError."""
        kinds: dict[str, Callable[[Any], Any]] = {each.name: float for each in fields(Speed)} | {"tokens": int}
        changed = {name: kinds[name](value) for name, value in wanted.items()}
        self.speed = Speed(**(asdict(self.speed) | changed))
        return asdict(self.speed)

    def reset(self) -> dict[str, Any]:
        """Forget; calls that still run are forgotten when they end."""
        self.stats = stub_stats.Stats()
        return {}


class Connection(asyncio.Protocol):
    """One kept-alive connection, one request at a time."""

    transport: asyncio.Transport

    def __init__(self, state: State) -> None:
        self._state = state
        self._buffer = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        self._call: tuple[stub_stats.Stats, stub_stats.Call] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, _exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._call is not None:
            self._call[0].abandon()
            self._call = None

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(_HEAD_END)
        if end < 0:
            return
        head = bytes(self._buffer[:end]).lower()
        whole = end + len(_HEAD_END) + _content_length(head)
        if len(self._buffer) >= whole:
            body = bytes(self._buffer[end + len(_HEAD_END) : whole])
            path = self._buffer.split(b" ", 2)[1].decode()
            del self._buffer[:whole]
            self._answer(path, body)

    def _answer(self, path: str, body: bytes) -> None:
        try:
            if path.endswith("/chat/completions"):
                self._complete(body)
            elif path == "/turns":
                self._send(200, self._state.stats.turns())
            elif path == "/stats":
                self._send(200, self._state.stats.summary())
            elif path == "/reset":
                self._send(200, self._state.reset())
            elif path == "/config":
                self._send(200, self._state.configure(json.loads(body or b"{}")))
            else:
                self._send(404, _error(f"unknown path {path}"))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as problem:
            self._send(400, _error(f"{type(problem).__name__}: {problem}"))

    def _complete(self, body: bytes) -> None:
        request, speed = json.loads(body), self._state.speed
        content = stub_answers.text(request, speed.tokens)
        usage = {"prompt_tokens": len(body) // 4, "completion_tokens": speed.tokens}
        usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
        call = self._state.stats.begin(stub_stats.turn_of(body), len(body))
        self._call = (self._state.stats, call)
        if request.get("stream"):
            asks_usage = (request.get("stream_options") or {}).get("include_usage")
            self._stream(speed, content, usage if asks_usage else None, call)
            return
        reply = _completion(content, usage)

        def finish() -> None:
            call.first_token = time.monotonic()
            self._send(200, reply)
            self._finish()

        self._later(speed.call_seconds, finish)

    def _stream(self, speed: Speed, content: str, usage: dict[str, int] | None, call: stub_stats.Call) -> None:
        pieces = [_event(delta={"content": piece}) for piece in _split(content, speed.tokens)]
        pieces[-1] += _event(finish_reason="stop") + (_event(usage=usage) if usage else b"") + _chunk("[DONE]")
        pieces[-1] += b"0\r\n\r\n"
        self.transport.write(_STREAM_HEAD)
        first_at = call.started + speed.first_token_ms / 1000

        def emit(position: int) -> None:
            now = time.monotonic()
            call.first_token = call.first_token or now
            # By the clock and not by the last token, so that the timer's delays do not add up.
            end = position + 1
            while end < len(pieces) and first_at + end * speed.token_ms / 1000 <= now + SLACK_SECONDS:
                end += 1
            self.transport.write(b"".join(pieces[position:end]))
            if end < len(pieces):
                self._later(first_at + end * speed.token_ms / 1000 - now, lambda: emit(end))
            else:
                self._finish()

        self._later(speed.first_token_ms / 1000, lambda: emit(0))

    def _later(self, seconds: float, work: Callable[[], None]) -> None:
        if seconds <= 0:
            work()
        else:
            self._timer = asyncio.get_running_loop().call_later(seconds, work)

    def _finish(self) -> None:
        if self._call is not None:
            stats, call = self._call
            stats.end(call)
            self._call = None

    def _send(self, status: int, body: Any) -> None:
        payload = json.dumps(body, separators=(",", ":")).encode()
        head = f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\n"
        self.transport.write(f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload)


def _content_length(head: bytes) -> int:
    _, found, rest = head.partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0]) if found else 0


def _completion(content: str, usage: dict[str, int]) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    return {**_envelope("chat.completion"), "choices": [choice], "usage": usage}


def _event(
    delta: dict[str, str] | None = None, finish_reason: str | None = None, usage: dict[str, int] | None = None
) -> bytes:
    choices = [] if usage else [{"index": 0, "delta": delta or {}, "finish_reason": finish_reason}]
    return _chunk(json.dumps({**_envelope("chat.completion.chunk"), "choices": choices, "usage": usage}))


def _chunk(data: str) -> bytes:
    event = f"data: {data}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(event), event)


def _envelope(kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-bench", "object": kind, "created": 1, "model": MODEL}


def _split(content: str, tokens: int) -> list[str]:
    """So many pieces, or one for each character of a shorter text."""
    size = max(1, -(-len(content) // max(1, tokens)))
    return [content[start : start + size] for start in range(0, len(content), size)]


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}


async def serve(port: int, ready: Callable[[int], None]) -> None:
    """Answer on 127.0.0.1 until cancelled; `ready` is told the port."""
    state = State(Speed(), stub_stats.Stats())
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(state), "127.0.0.1", port, backlog=2048)
    ready(server.sockets[0].getsockname()[1])
    async with server:
        await server.serve_forever()


def main(arguments: list[str]) -> int:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="model_stub")
    parser.add_argument("--port", type=int, default=0, help="0 chooses a free one, which is printed")
    chosen = parser.parse_args(arguments)
    # A collection over a hundred thousand remembered calls would stop every stream for its time.
    gc.freeze()
    gc.set_threshold(200_000, 50, 50)
    try:
        asyncio.run(serve(chosen.port, lambda port: print(port, flush=True)))
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
