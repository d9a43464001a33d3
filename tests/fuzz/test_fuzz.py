"""Requests made up from the OpenAPI document: every answer is one that it promises. `make fuzz` runs longer."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask, Response

import app as application
from api.settings import Settings
from tests.conftest import Client
from tests.fuzz.engine import Broken, Fuzz

SEED = 20260101
EXAMPLES = 4


@pytest.fixture(scope="module")
def app(settings: Settings) -> Flask:
    """The app where logins do not run out."""
    made = application.create_app(
        replace(settings, rate_limit_login_burst=1_000_000, rate_limit_login_per_minute=1_000_000)
    )
    made.config["CHECK_REPLIES"] = True
    return made


@pytest.fixture(scope="module")
def document(app: Flask, serve: Callable[[Flask], int]) -> tuple[int, dict[str, Any]]:
    """Where the app answers, and its document."""
    port = serve(app)
    answer = Client(port).get("/openapi.json")
    assert answer.status == 200
    return port, answer.body


def test_every_answer_to_a_made_up_request_is_promised(document: tuple[int, dict[str, Any]]) -> None:
    port, promised = document
    fuzz = Fuzz(promised, port, SEED, EXAMPLES)
    fuzz.run()
    operations = sum(len(methods) for methods in promised["paths"].values())
    assert fuzz.cases > operations * EXAMPLES
    assert len(fuzz.reached) > operations * 2 / 3
    assert max(fuzz.statuses) < 500


def _gone_wrong(status: int, body: Any) -> Callable[..., Response]:
    return lambda **_: Response(json.dumps(body), status=status, mimetype="application/json")


ERROR = {"error_code": "E", "message": "m", "details": "d", "remediation": "r", "request_id": "i"}


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (_gone_wrong(500, ERROR), "Server error"),
        (_gone_wrong(418, ERROR), "Undocumented status code"),
        (_gone_wrong(400, {"message": "m"}), "Response violates schema"),
        (_gone_wrong(200, {"agent_id": "no uuid"}), "Response violates schema"),
        (lambda **_: Response("<p>", status=404, mimetype="text/html"), "Undocumented Content-Type"),
        (_gone_wrong(400, ERROR), "two ids for one request"),
    ],
)
def test_an_answer_that_breaks_a_promise_is_found(
    answer: Callable[..., Response],
    fault: str,
    app: Flask,
    document: tuple[int, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port, promised = document
    monkeypatch.setitem(app.view_functions, "v1.agents.get_agent", answer)
    with pytest.raises(Broken, match=fault) as raised:
        Fuzz(promised, port, SEED, 1, only="GET /api/v1/agents/{agent_id}").run()
    assert f"make fuzz SEED={SEED}" in str(raised.value)
