"""Errors have one shape wherever they come from, help the caller, and tell nothing of our inside."""

from __future__ import annotations

import io
import json
import logging
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest

from api import error_page, errors, logs
from api.launch import PROJECT
from db import DatabaseUnavailable, businesses
from tests.conftest import Answer, Client

PLANTED = "planted-text-of-an-exception"


class _Talkative(Exception):
    """An exception of somebody else's, with the attributes that ours have."""

    message = remediation = details = PLANTED


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What is logged meanwhile."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.Formatter())
    logging.getLogger().addHandler(handler)
    yield stream
    logging.getLogger().removeHandler(handler)


def _lines(log: io.StringIO, source: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    return [line for line in lines if line["source"] == source]


def _failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(businesses, "get", fail)


def _look(caller: Client, **headers: str) -> Answer:
    return caller.get(f"/api/v1/businesses/{caller.business_id}", **headers)


def test_a_malformed_time_is_explained_as_documented(alice: Client) -> None:
    event = {"event_id": str(uuid.uuid4()), "business_id": alice.business_id, "event_type": "view"}
    answer = alice.post("/api/v1/events", event | {"event_timestamp": "2023-13-01"})
    assert (answer.status, answer.error_code) == (400, "INVALID_REQUEST")
    assert answer.body["message"] == "Invalid event_timestamp format"
    assert answer.body["details"].startswith("Expected ISO 8601")
    assert answer.body["details"].endswith("got '2023-13-01'")
    assert answer.body["remediation"] == "Use 'YYYY-MM-DDTHH:MM:SSZ' format"
    in_query = alice.get("/api/v1/events?since=2023-13-01")
    assert (in_query.status, in_query.body["message"]) == (400, "Invalid since format")
    assert in_query.body["remediation"] == answer.body["remediation"]


def test_every_error_has_the_one_shape_and_is_json(alice: Client, anybody: Client) -> None:
    stages = "/api/v1/stages"
    expected = {
        (400, "INVALID_REQUEST"): [alice.get(f"{stages}?limit=0"), alice.call("POST", stages, raw=b"{")],
        (401, "UNAUTHORIZED"): [anybody.get(stages)],
        (403, "FORBIDDEN"): [alice.get("/api/v1/businesses")],
        (404, "NOT_FOUND"): [
            anybody.get("/nowhere"),
            anybody.get("/api/v1/"),
            anybody.get("/api/v1/stages/../../etc/passwd"),
            alice.get(f"{stages}/{uuid.uuid4()}"),
        ],
        (405, "METHOD_NOT_ALLOWED"): [anybody.call("PUT", stages), anybody.call("FOO", "/healthz")],
        (413, "PAYLOAD_TOO_LARGE"): [alice.call("POST", stages, raw=b" " * (2**20 + 1))],
        (415, "UNSUPPORTED_MEDIA_TYPE"): [alice.call("POST", stages, raw=b"{}", Content_Type="text/xml")],
    }
    for (status, code), answers in expected.items():
        for answer in answers:
            assert (answer.status, answer.error_code) == (status, code)
            assert all(isinstance(answer.body[name], str) and answer.body[name] for name in answer.body)
            assert answer.headers["Content-Type"] == "application/json"
            assert answer.headers["X-Request-ID"] == answer.body["request_id"]


def test_a_wrong_method_is_told_the_right_ones(anybody: Client) -> None:
    answer = anybody.call("PUT", "/api/v1/stages")
    assert {"GET", "POST"} <= set(answer.headers["Allow"].split(", "))
    assert "PUT" not in answer.headers["Allow"]


def test_no_text_of_an_unexpected_exception_reaches_the_caller(
    alice: Client, monkeypatch: pytest.MonkeyPatch, log: io.StringIO
) -> None:
    for error in (_Talkative(PLANTED), psycopg2.ProgrammingError(f"SELECT {PLANTED}"), AssertionError(PLANTED)):
        _failing(monkeypatch, error)
        answer = _look(alice)
        assert (answer.status, answer.error_code) == (500, "SERVER_ERROR")
        assert PLANTED not in str(answer)
        assert type(error).__name__ not in str(answer)


def test_a_fault_is_logged_with_its_stack_trace_and_the_callers_request_id(
    alice: Client, monkeypatch: pytest.MonkeyPatch, log: io.StringIO
) -> None:
    try:
        raise KeyError(PLANTED)
    except KeyError as cause:
        error = _Talkative(PLANTED)
        error.__cause__ = cause
    _failing(monkeypatch, error)
    answer = _look(alice, X_Request_ID="my-request-1")
    assert answer.body["request_id"] == answer.headers["X-Request-ID"] == "my-request-1"
    [line] = _lines(log, "api.errors")
    assert (line["level"], line["request_id"], line["error_code"]) == ("ERROR", "my-request-1", "SERVER_ERROR")
    assert line["business_id"] == alice.business_id
    trace = line["exc_info"]
    assert trace.index("KeyError") < trace.index("api/businesses.py") < trace.index("_Talkative")
    assert PLANTED not in log.getvalue()


def test_a_lost_database_is_a_503_that_says_when_to_come_back(
    alice: Client, monkeypatch: pytest.MonkeyPatch, log: io.StringIO
) -> None:
    _failing(monkeypatch, DatabaseUnavailable(PLANTED))
    answer = _look(alice)
    assert (answer.status, answer.error_code) == (503, "DATABASE_UNAVAILABLE")
    assert int(answer.headers["Retry-After"]) > 0
    assert PLANTED not in str(answer)
    assert _lines(log, "api.errors")[0]["error_code"] == "DATABASE_UNAVAILABLE"


def test_what_the_caller_sent_is_shown_short_and_harmless(alice: Client) -> None:
    long = "x" * 100_000
    requests: list[Any] = [
        {long: 1},
        {"stage_name": long},
        {"stage_name": "s", "data_extraction": {"output_schema": {long: 1}, "prompt": {"template_id": long}}},
        {"stage_name": "s", "stage_selection": {"context_data_fields": {long: 5}}},
        {"stage_name": [long]},
    ]
    for body in requests:
        answer = alice.post("/api/v1/stages", body)
        assert answer.status == 400
        assert len(json.dumps(answer.body)) < 3000


def test_every_row_of_the_table_is_a_whole_sentence_to_a_caller() -> None:
    rows = [*errors.TABLE.values(), *errors.HTTP.values(), errors.TIMED_OUT, errors.FAULT, errors.UNREADABLE]
    assert all(row.message and row.remediation and 400 <= row.status < 600 for row in rows)
    assert len({(row.status, row.message) for row in rows}) == len(rows)


def test_the_checked_in_list_of_errors_is_fresh() -> None:
    stored = (PROJECT / "docs" / "errors.md").read_text(encoding="utf-8")
    assert stored == error_page.text(), "stale: run `.venv/bin/flask --app app list-errors docs/errors.md`"
