"""A server with the few routes that the player uses, as small as the contract allows; run as a program.

It reads PORT, ICMP_API_KEY and OPENAI_BASE_URL (without one it never finds anything), and FAULT: one thing
that it is to do wrong.
"""

from __future__ import annotations

import json
import os
import urllib.request
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FAULT = os.environ.get("FAULT", "")
BUSINESSES: dict[str, dict[str, Any]] = {}
CONVERSATIONS: dict[str, dict[str, Any]] = {}
SEEN: set[str] = set()


def create_business(body: dict[str, Any]) -> tuple[int, Any]:
    business_id = str(uuid.uuid4())
    BUSINESSES[business_id] = {"stages": {}, "settings": {}}
    return 201, {"business_id": business_id, "api_key": f"icmp_{business_id}", "settings": {}, **body}


def create_stage(body: dict[str, Any]) -> tuple[int, Any]:
    if FAULT == "refuse stages":
        return 400, {"error_code": "INVALID_REQUEST"}
    BUSINESSES[body["business_id"]]["stages"][body["stage_name"]] = body["data_extraction"]["output_schema"]
    return 201, body


def post_message(body: dict[str, Any], key: str) -> tuple[int, Any]:
    if FAULT == "limit" and key not in SEEN:
        SEEN.add(key)
        return 429, {"error_code": "RATE_LIMITED"}
    if FAULT == "crash":
        return 500, {"error_code": "SERVER_ERROR"}
    stages = BUSINESSES[body["business_id"]]["stages"]
    conversation_id = body.get("conversation_id") or str(uuid.uuid4())
    conversation = CONVERSATIONS.setdefault(conversation_id, {"stage": None, "data": {}})
    expected = conversation["stage"] or next(iter(stages))
    selected = ask("stage_selection", {"stage": {"type": "string", "enum": [*stages, "none"]}}, body["message"])
    conversation["stage"] = expected if selected["stage"] == "none" else selected["stage"]
    extracted = extract(stages[expected], body["message"])
    if expected != conversation["stage"]:
        extracted = extract(stages[conversation["stage"]], body["message"])
    if FAULT != "forget data":
        conversation["data"] |= extracted
    schema = stages[conversation["stage"]]
    return 200, {
        "response": ask(None, {}, "" if FAULT == "alter message" else body["message"]),
        "conversation_id": conversation_id,
        "stage": {"stage_name": next(iter(stages)) if FAULT == "stay" else conversation["stage"]},
        "model": "stand-in",
        "data": conversation["data"],
        "missing_fields": [name for name in schema["required"] if name not in conversation["data"]],
    }


def extract(schema: dict[str, Any], message: str) -> dict[str, Any]:
    answer = ask("data_extraction", schema["properties"], message)
    return {name: found["value"] for name, found in answer.items() if found["value"] is not None}


def ask(name: str | None, properties: dict[str, Any], message: str) -> Any:
    if not os.environ.get("OPENAI_BASE_URL"):
        nothing = {field: {"value": None, "quote": None} for field in properties}
        return "Yes." if name is None else {**nothing, "stage": "none"} if name == "stage_selection" else nothing
    request: dict[str, Any] = {"model": "any", "messages": [{"role": "user", "content": message}]}
    if name is not None:
        schema = {"name": name, "schema": {"type": "object", "properties": properties}}
        request["response_format"] = {"type": "json_schema", "json_schema": schema}
    call = urllib.request.Request(os.environ["OPENAI_BASE_URL"] + "/chat/completions", json.dumps(request).encode())
    with urllib.request.urlopen(call) as answer:
        content = json.load(answer)["choices"][0]["message"]["content"]
    return content if name is None else json.loads(content)


class Handler(BaseHTTPRequestHandler):
    """The routes."""

    def do_GET(self) -> None:
        self.reply(200 if self.path == "/readyz" else 404, {})

    def do_PATCH(self) -> None:
        self.body()
        self.reply(400 if FAULT == "refuse settings" else 200, {})

    def do_POST(self) -> None:
        body = self.body()
        if self.path == "/api/v1/messages":
            self.reply(*post_message(body, self.headers["Idempotency-Key"]))
        elif self.headers["Authorization"] != f"Bearer {os.environ['ICMP_API_KEY']}":
            self.reply(401, {})
        else:
            self.reply(*(create_stage(body) if self.path == "/api/v1/stages" else create_business(body)))

    def body(self) -> Any:
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def reply(self, status: int, body: Any) -> None:
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""


if __name__ == "__main__":
    if FAULT == "end at once":
        raise SystemExit("the port is taken")
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
