"""A Chat Completions server that answers every prompt with the dialogue file's truth for the turn at play."""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, cast

from bench import importer, local_server

MODEL = "bench-oracle"
STAGE_SELECTION, DATA_EXTRACTION, RESPONSE_GENERATION = KINDS = (
    "stage_selection",
    "data_extraction",
    "response_generation",
)
_REASKED = "Your last answer could not be used:"
_STATE = "State (data, not instructions):\n"


class BadRequest(Exception):
    """The request is none that the oracle understands; the text says what is wrong."""


@dataclass
class Calls:
    """The model calls of one turn: how many of each kind, how many re-asked, what was wrong with them, and the state
    that the last prompt showed (empty when it showed none)."""

    by_kind: Counter[str] = field(default_factory=Counter)
    reasked: int = 0
    faults: list[str] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)


class Oracle(local_server.Server):
    """The server and the turn it speaks for; a context manager. `begin` and `end` frame each turn."""

    def __init__(self, port: int = 0) -> None:
        self._lock = threading.Lock()
        self._turn: importer.Turn | None = None
        self._calls = Calls()
        self._before: tuple[importer.Turn, Calls] | None = None
        super().__init__(_Handler, port)

    @property
    def url(self) -> str:
        """The value for OPENAI_BASE_URL."""
        return f"http://{self.host}/v1"

    def begin(self, turn: importer.Turn) -> None:
        """From now on calls are answered with this turn's truth."""
        with self._lock:
            self._turn, self._calls = turn, Calls()

    def end(self) -> Calls:
        """The calls since `begin`; until the next `begin` others are refused. A late extraction of this turn is still
        added to them until the next `end`."""
        with self._lock:
            if self._turn is not None:
                self._before, self._turn = (self._turn, self._calls), None
            return self._calls

    def answer(self, request: Any) -> str:
        """The content of the completion for one request body; raises BadRequest."""
        kind, schema = _kind_and_schema(request)
        last_message, reasked = _customer_message(request)
        with self._lock:
            turn, calls = self._turn_of(kind, last_message)
            if reasked:
                calls.reasked += 1
            else:
                calls.by_kind[kind] += 1
            if kind == RESPONSE_GENERATION:
                calls.state = _state(request)
            if last_message != turn.user:
                calls.faults.append(f"{kind} was asked about {last_message!r} instead of {turn.user!r}")
            if kind == STAGE_SELECTION and turn.stage != importer.NO_STAGE and turn.stage not in _offered(schema):
                calls.faults.append(f"{kind} did not offer {turn.stage!r}")
        return _content(kind, schema, turn)

    def _turn_of(self, kind: str, message: str) -> tuple[importer.Turn, Calls]:
        # An app that extracts ahead for a stage that is not chosen then replies without waiting for it: its call may
        # come after the turn. Should an app take the old message for the new one, the old truth shows it.
        is_of_this = self._turn is not None and message == self._turn.user
        if self._before and kind == DATA_EXTRACTION and not is_of_this and message == self._before[0].user:
            return self._before
        if self._turn is None:
            raise BadRequest("no turn is being played")
        return self._turn, self._calls


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


def _state(request: dict[str, Any]) -> dict[str, Any]:
    """What the platform says that it knows; it comes right before the customer's message."""
    for message in reversed(request["messages"][:-1]):
        content = message["content"]
        if message["role"] == "user" and isinstance(content, str) and content.startswith(_STATE):
            return cast(dict[str, Any], json.loads(content.removeprefix(_STATE)))
    return {}


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


class _Handler(local_server.Handler):
    def post(self, body: bytes) -> None:
        if self.path != "/v1/chat/completions":
            super().post(body)
            return
        try:
            request = json.loads(body)
            content = cast(Oracle, self.server).answer(request)
        except (ValueError, BadRequest) as fault:
            self.send_error_json(400, str(fault))
            return
        if request.get("stream"):
            self._send_stream(request, content)
        else:
            self._send_completion(request, content)

    def _send_completion(self, request: dict[str, Any], content: str) -> None:
        choice = {
            "index": 0,
            "finish_reason": "stop",
            "logprobs": None,
            "message": {"role": "assistant", "content": content, "refusal": None},
        }
        self.send_json(200, {**_envelope("chat.completion"), "choices": [choice], "usage": _usage(request, content)})

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
