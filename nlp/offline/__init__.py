"""The offline model: a deterministic stand-in for demos and tests, as the HTTP transport of the OpenAI client.

It thinks in no way: it compares words, finds values by their form and speaks from the stage's own material.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import httpx2

from nlp.offline import extraction, reader, replies, selection

MODEL = "icmp-offline"
ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
# No clock: the same request gets the same bytes.
CREATED = 0
_PIECE = re.compile(r"\s*\S+\s*")


class _Refused(Exception):
    """The request is malformed."""


def transport() -> httpx2.BaseTransport:
    """A transport for `openai.OpenAI(http_client=httpx2.Client(transport=…))`; it may be shared by threads."""
    return _Offline()


class _Offline(httpx2.BaseTransport):
    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path.rstrip("/")
        if request.method == "GET" and path.endswith("/models"):
            model = {"id": MODEL, "object": "model", "created": CREATED, "owned_by": "icmp"}
            return httpx2.Response(200, json={"object": "list", "data": [model]})
        if request.method != "POST" or not path.endswith("/chat/completions"):
            return _error(404, f"Unknown request URL: {request.method} {request.url.path}")
        try:
            return _completion(_checked(request.read()))
        except _Refused as refusal:
            return _error(400, str(refusal))


def _error(status: int, message: str) -> httpx2.Response:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return httpx2.Response(status, json={"error": error})


def _checked(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as fault:
        raise _Refused("The body is not JSON.") from fault
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        raise _Refused("The body must be an object that names a model.")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _Refused("'messages' must be a list with at least one message.")
    for message in messages:
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if not isinstance(role, str) or role not in ROLES or not isinstance(content, str | list | None):
            raise _Refused("Each message needs a known 'role' and a 'content' of text.")
    return body


def _completion(body: Mapping[str, Any]) -> httpx2.Response:
    content = _answer(body)
    prompt_tokens = sum(_tokens(json.dumps(message.get("content"))) for message in body["messages"])
    completion_tokens = _tokens(content)
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
    digest = hashlib.sha256(json.dumps([body["messages"], body.get("response_format")]).encode()).hexdigest()
    head = {"id": f"chatcmpl-{digest[:24]}", "created": CREATED, "model": MODEL}
    if body.get("stream") is True:
        options = body.get("stream_options")
        counted = isinstance(options, dict) and options.get("include_usage") is True
        events = _events(head, content, usage if counted else None)
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=events)
    message = {"role": "assistant", "content": content, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    return httpx2.Response(200, json={**head, "object": "chat.completion", "choices": [choice], "usage": usage})


def _answer(body: Mapping[str, Any]) -> str:
    reading = reader.read(body["messages"])
    wanted = body.get("response_format")
    if wanted is None or (isinstance(wanted, dict) and wanted.get("type") == "text"):
        return replies.respond(reading)
    named = reader.section(wanted, "json_schema") if isinstance(wanted, dict) else {}
    schema = reader.section(named, "schema")
    if named.get("name") == "stage_selection":
        return json.dumps(selection.select(reading, schema), ensure_ascii=False)
    if named.get("name") == "data_extraction":
        return json.dumps(extraction.extract(reading, schema), ensure_ascii=False)
    raise _Refused("'response_format' must be the json_schema 'stage_selection' or 'data_extraction'.")


def _tokens(text: str) -> int:
    """About what a tokenizer would count: four characters each."""
    return -(-len(text) // 4)


def _events(head: Mapping[str, Any], content: str, usage: Mapping[str, int] | None) -> Iterator[bytes]:
    deltas: list[dict[str, str]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": piece} for piece in _PIECE.findall(content)]
    for delta in deltas:
        yield _event(head, [{"index": 0, "delta": delta, "finish_reason": None}])
    yield _event(head, [{"index": 0, "delta": {}, "finish_reason": "stop"}])
    if usage is not None:
        yield _event(head, [], usage)
    yield b"data: [DONE]\n\n"


def _event(head: Mapping[str, Any], choices: list[dict[str, Any]], usage: Mapping[str, int] | None = None) -> bytes:
    chunk = {**head, "object": "chat.completion.chunk", "choices": choices, "usage": usage}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"
