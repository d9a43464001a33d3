"""The log: JSON lines that can be followed by request, and that never hold what a caller said or proved itself with."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from api import logs
from tests.api import gunicorn_server
from tests.conftest import MASTER_KEY, Client, onboard

FIELDS = ("timestamp", "level", "source", "message")
REQUEST_FIELDS = ("request_id", "business_id", "user_id", "conversation_id", "error_code", "duration_ms")


@pytest.fixture(scope="module")
def served(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[gunicorn_server.Served]:
    """The app under gunicorn, as talkative as it can be."""
    folder = tmp_path_factory.mktemp("logged")
    with gunicorn_server.running(folder, database_url, LOG_LEVEL="DEBUG") as server:
        yield server


def _line(served: gunicorn_server.Served, request_id: str) -> dict[str, Any]:
    [line] = [
        line for line in served.lines() if line.get("request_id") == request_id and line["source"] == "icmp.request"
    ]
    return line


def _record(message: str, *values: Any, **extra: Any) -> logging.LogRecord:
    return logging.getLogger("a").makeRecord("a", logging.INFO, "f", 1, message, values, None, extra=extra)


def test_every_request_leaves_one_line_with_its_ids(served: gunicorn_server.Served) -> None:
    alice = onboard(Client(served.port, MASTER_KEY), "Logged")
    stage = {"stage_name": "welcome", "stage_type": "information", "stage_description": "Anything."}
    assert alice.post("/api/v1/stages", stage).status == 201
    user_id = str(uuid.uuid4())
    said = alice.post("/api/v1/messages", {"user_id": user_id, "message": "Hello"}, X_Request_ID="talk-1")
    assert (said.status, said.headers["X-Request-ID"]) == (200, "talk-1")
    line = _line(served, "talk-1")
    assert set(FIELDS + REQUEST_FIELDS) <= set(line)
    assert (line["method"], line["route"], line["status"]) == ("POST", "/api/v1/messages", 200)
    assert (line["business_id"], line["user_id"]) == (alice.business_id, user_id)
    assert (line["conversation_id"], line["error_code"]) == (said.body["conversation_id"], None)
    assert line["duration_ms"] > 0
    assert datetime.fromisoformat(line["timestamp"]).utcoffset() is not None
    refused = Client(served.port).get("/api/v1/stages")
    assert _line(served, refused.body["request_id"])["error_code"] == "UNAUTHORIZED"


def test_every_line_is_json_with_the_first_four_fields(served: gunicorn_server.Served) -> None:
    lines = served.lines()
    assert any(line["source"].startswith("gunicorn") for line in lines)
    assert all(tuple(line)[:4] == FIELDS for line in lines)


@pytest.mark.parametrize("sent", ["a", "x" * 128, "01HZY-7f.3:4", str(uuid.UUID(int=1))])
def test_a_well_formed_request_id_is_taken(sent: str, anybody: Client) -> None:
    assert anybody.get("/healthz", X_Request_ID=sent).headers["X-Request-ID"] == sent


@pytest.mark.parametrize(
    "sent", ["", "x" * 129, "a b", '{"level":"ERROR"}', "a\tb", "a%0Ab", "\xe9", "<script>", "a,b"]
)
def test_any_other_request_id_is_replaced(sent: str, anybody: Client) -> None:
    made = anybody.get("/healthz", X_Request_ID=sent).headers["X-Request-ID"]
    assert made != sent
    assert str(uuid.UUID(made)) == made
    assert anybody.get("/healthz").headers["X-Request-ID"] != made


@pytest.mark.parametrize(
    "told",
    [
        "sent Authorization: Bearer abcdefgh.ijkl-mnop",
        "key icmp_biz_live_0123456789abcdefghij",
        "key sk-proj-0123456789abcdefghij",
        "at postgresql://icmp:hunter22@db.example/icmp",
        "at redis://:hunter22@cache.example",
        "Authorization: Basic emVicmE6emVicmE6emVicmE=",
        "Authorization: ApiKey emVicmE6emVicmE6emVicmE=",
        "token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ6ZWJyYSJ9.c2lnbmF0dXJl",
    ],
)
def test_a_key_that_is_logged_by_mistake_is_removed_and_the_line_stays_json(told: str) -> None:
    line = json.loads(logs.Formatter().format(_record("%s", told, place=told, status=400)))
    assert line["message"] == line["place"]
    assert "[removed]" in line["message"]
    assert told.rsplit(maxsplit=1)[-1] not in str(line)
    assert line["status"] == 400


def test_a_line_cannot_be_forged(served: gunicorn_server.Served) -> None:
    forged = 'x\n{"level": "ERROR"}\r\u2028\x1b[31m'
    written = logs.Formatter().format(_record("%s", forged))
    assert written.isprintable()
    assert json.loads(written)["message"] == forged
    before = _requests(served)
    assert Client(served.port).get("/%0A%7B%22level%22:%22ERROR%22%7D").status == 404
    assert _requests(served) == before + 1
    assert not any(line["level"] == "ERROR" for line in served.lines())


def _requests(served: gunicorn_server.Served) -> int:
    """How many requests the log tells of, each of its lines being whole."""
    return sum(line["source"] == "icmp.request" for line in served.lines())
