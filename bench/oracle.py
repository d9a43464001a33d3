"""A Chat Completions server that answers every prompt with the dialogue file's truth for the turn at play."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import sys
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self, cast

from bench import importer

MODEL = "bench-oracle"
STAGE_SELECTION, DATA_EXTRACTION, RESPONSE_GENERATION = KINDS = (
    "stage_selection",
    "data_extraction",
    "response_generation",
)
_REASKED = "Your last answer could not be used:"


class BadRequest(Exception):
    """The request is none that the oracle understands; the text says what is wrong."""


@dataclass
class Calls:
    """The model calls of one turn: how many of each kind, how many re-asked, and what was wrong with them."""

    by_kind: Counter[str] = field(default_factory=Counter)
    reasked: int = 0
    faults: list[str] = field(default_factory=list)


class Oracle:
    """The server and the turn it speaks for; a context manager. `begin` and `end` frame each turn."""

    def __init__(self, port: int = 0) -> None:
        self._lock = threading.Lock()
        self._turn: importer.Turn | None = None
        self._calls = Calls()
        self._server = _Server(("127.0.0.1", port), self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        """The value for OPENAI_BASE_URL."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def begin(self, turn: importer.Turn) -> None:
        """From now on calls are answered with this turn's truth."""
        with self._lock:
            self._turn, self._calls = turn, Calls()

    def end(self) -> Calls:
        """The calls since `begin`; later calls are refused until the next `begin`."""
        with self._lock:
            self._turn = None
            return self._calls

    def answer(self, request: Any) -> str:
        """The content of the completion for one request body; raises BadRequest."""
        kind, schema = _kind_and_schema(request)
        last_message, reasked = _customer_message(request)
        with self._lock:
            turn, calls = self._turn, self._calls
            if turn is None:
                raise BadRequest("no turn is being played")
            if reasked:
                calls.reasked += 1
            else:
                calls.by_kind[kind] += 1
            if last_message != turn.user:
                calls.faults.append(f"{kind} was asked about {last_message!r} instead of {turn.user!r}")
            if kind == STAGE_SELECTION and turn.stage != importer.NO_STAGE and turn.stage not in _offered(schema):
                calls.faults.append(f"{kind} did not offer {turn.stage!r}")
        return _content(kind, schema, turn)


def _kind_and_schema(request: Any) -> tuple[str, dict[str, Any]]:
    try:
        response_format = request.get("response_format")
        if response_format is None:
            return RESPONSE_GENERATION, {}
        kind, schema = response_format["json_schema"]["name"], response_format["json_schema"]["schema"]
        if kind not in KINDS[:2] or not isinstance(schema["properties"], dict):
            raise BadRequest(f"unknown json_schema {kind!r}")
        return kind, schema
    except (AttributeError, KeyError, TypeError) as fault:
        raise BadRequest(f"malformed response_format: {fault}") from None


def _customer_message(request: dict[str, Any]) -> tuple[str, bool]:
    """The customer's message, and whether this is the second asking after an unusable answer."""
    try:
        messages = [(message["role"], message["content"]) for message in request["messages"]]
        role, content = messages[-1]
    except (KeyError, TypeError, IndexError) as fault:
        raise BadRequest(f"malformed messages: {fault}") from None
    if role != "user" or not isinstance(content, str):
        raise BadRequest("the last message is not the customer's text")
    if not content.startswith(_REASKED):
        return content, False
    asked = [earlier for role, earlier in messages[:-1] if role == "user"]
    return (str(asked[-1]) if asked else ""), True


def _offered(schema: dict[str, Any]) -> list[str]:
    return cast(list[str], schema["properties"].get("stage", {}).get("enum", []))


def _content(kind: str, schema: dict[str, Any], turn: importer.Turn) -> str:
    if kind == RESPONSE_GENERATION:
        return turn.system
    if kind == STAGE_SELECTION:
        stage = turn.stage if turn.stage in _offered(schema) else "none"
        answer: dict[str, Any] = {"reason": "The dialogue file says so.", "stage": stage, "confidence": 1.0}
    else:
        answer = {name: _extracted(turn, name) for name in schema["properties"]}
    return json.dumps(answer, ensure_ascii=False)


def _extracted(turn: importer.Turn, name: str) -> dict[str, str | None]:
    value = turn.data.get(name)
    return {"value": value, "quote": None if value is None else quote(value, turn.user)}


def quote(value: str, message: str) -> str | None:
    """The customer's own words for the value, when it stands in the message as whole words."""
    found = re.search(rf"(?<!\w){re.escape(value)}(?!\w)", message, re.IGNORECASE)
    return found.group() if found else None


def _usage(request: dict[str, Any], content: str) -> dict[str, int]:
    prompt_tokens = sum(len(str(message["content"]).split()) for message in request["messages"])
    completion_tokens = len(content.split())
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], oracle: Oracle) -> None:
        super().__init__(address, _Handler)
        self.oracle = oracle
        self._connections: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # An app that is stopped or gives up a call breaks its connections: no news.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def server_close(self) -> None:
        # Kept-alive connections would hold their threads, and so the join, for ever.
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        super().server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # A small answer would otherwise wait 40 ms for the peer's delayed acknowledgement.
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path != "/v1/chat/completions":
            self._send_error(404, f"unknown path {self.path}")
            return
        try:
            request = json.loads(body)
            content = cast(_Server, self.server).oracle.answer(request)
        except (ValueError, BadRequest) as fault:
            self._send_error(400, str(fault))
            return
        if request.get("stream"):
            self._send_stream(request, content)
        else:
            self._send_completion(request, content)

    def do_GET(self) -> None:
        self._send_error(404, f"unknown path {self.path}")

    def log_message(self, format: str, *args: Any) -> None:
        """Keep standard error for the player's own words."""

    def _send_error(self, status: int, message: str) -> None:
        self._send_json(status, {"error": {"message": message, "type": "invalid_request_error", "code": None}})

    def _send_completion(self, request: dict[str, Any], content: str) -> None:
        choice = {
            "index": 0,
            "finish_reason": "stop",
            "logprobs": None,
            "message": {"role": "assistant", "content": content, "refusal": None},
        }
        self._send_json(200, {**_envelope("chat.completion"), "choices": [choice], "usage": _usage(request, content)})

    def _send_json(self, status: int, body: dict[str, Any]) -> None:
        payload = json.dumps(body, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def _send_stream(self, request: dict[str, Any], content: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        envelope = _envelope("chat.completion.chunk")
        for delta in [{"role": "assistant", "content": ""}, *({"content": p} for p in _pieces(content))]:
            self._send_event(json.dumps({**envelope, "choices": [_delta(delta, None)]}, ensure_ascii=False))
        self._send_event(json.dumps({**envelope, "choices": [_delta({}, "stop")]}))
        if (request.get("stream_options") or {}).get("include_usage"):
            self._send_event(json.dumps({**envelope, "choices": [], "usage": _usage(request, content)}))
        self._send_event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def _send_event(self, data: str) -> None:
        event = f"data: {data}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
        self.wfile.flush()


def _envelope(kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": MODEL}


def _delta(delta: dict[str, str], finish_reason: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}


def _pieces(content: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+$", content)
