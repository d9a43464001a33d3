"""Calls to a model server that does all it can do wrong, over real sockets."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpcore2
import pytest

from nlp import bounded, llm, offline
from nlp.errors import ModelUnavailable
from tests.nlp import model_server as play
from tests.nlp.model_server import REQUEST, Behaviour, Server, model, refused

SCHEMA = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}


@pytest.fixture
def server() -> Iterator[Server]:
    with play.running() as running:
        yield running


def test_answer_carries_text_usage_and_model(server: Server) -> None:
    answer = model(server).ask(REQUEST)
    assert (answer.text, answer.refusal, answer.finish_reason) == ("Hello.", None, "stop")
    assert (answer.model, answer.prompt_tokens, answer.completion_tokens) == ("m-1", 12, 3)
    assert (answer.attempts, answer.raw) == (1, "Hello.")
    assert answer.latency_ms > 0
    assert server.bodies == [{"model": "m-1", "messages": list(REQUEST.messages)}]
    assert server.headers[0]["authorization"] == "Bearer sk-secret"


def test_schema_goes_out_strict_under_the_kind_of_call(server: Server) -> None:
    model(server).ask(replace(REQUEST, schema=SCHEMA, settings={"temperature": 0, "seed": 3}))
    assert server.bodies[0]["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "response_generation", "strict": True, "schema": SCHEMA},
    }
    assert (server.bodies[0]["temperature"], server.bodies[0]["seed"]) == (0, 3)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (play.reply(None, refusal="I will not."), (None, "I will not.", "stop")),
        (play.reply("Half", finish_reason="length"), ("Half", None, "length")),
        (play.reply("odd \ud83d end"), ("odd \ufffd end", None, "stop")),
        (play.reply(usage=None, model=None), ("Hello.", None, "stop")),
        (play.reply(usage={"prompt_tokens": "many", "completion_tokens": -1}), ("Hello.", None, "stop")),
    ],
)
def test_what_the_model_says_is_handed_up(server: Server, body: dict[str, Any], expected: tuple[str, ...]) -> None:
    server.script = [play.answers(body)]
    answer = model(server).ask(REQUEST)
    assert (answer.text, answer.refusal, answer.finish_reason) == expected


@pytest.mark.parametrize(
    "behaviour",
    [
        play.fails(500),
        play.fails(503),
        play.fails(408),
        play.fails(409),
        play.fails(429),
        play.resets,
        play.cuts,
        play.answers(b"<html>Hello</html>", content_type="text/html"),
        play.answers(b"{"),
        play.answers(b"[" * 100_000),
        play.answers(b"\xff\xfe"),
        play.answers([]),
        play.answers({"choices": []}),
        play.answers({"choices": None}),
        play.answers({"choices": [{"message": None}]}),
        play.answers({"choices": [{"message": {"content": 5}}]}),
        play.answers({"error": {"message": "no"}}),
    ],
)
def test_passing_fault_is_tried_again(server: Server, behaviour: Behaviour) -> None:
    server.script = [behaviour, behaviour, play.answers()]
    pauses: list[float] = []
    answer = model(server, pauses).ask(REQUEST)
    assert (answer.text, answer.attempts) == ("Hello.", 3)
    assert pauses == [0.5, 1.0]


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (play.fails(500), "server_error"),
        (play.fails(429), "rate_limited"),
        (play.resets, "connection"),
        (play.answers(b"<html>", content_type="text/html"), "bad_response"),
        (play.answers({"choices": []}), "bad_response"),
    ],
)
def test_lasting_fault_ends_after_two_more_tries(server: Server, behaviour: Behaviour, reason: str) -> None:
    server.script = [behaviour]
    error = refused(model(server))
    assert (error.reason, error.timed_out, error.attempts, len(server.bodies)) == (reason, False, 3, 3)


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (play.fails(400), "rejected"),
        (play.fails(404), "rejected"),
        (play.fails(422), "rejected"),
        (play.answers(b"", 302, location="http://127.0.0.1:1/"), "rejected"),
        (play.fails(401), "unauthorized"),
        (play.fails(403), "unauthorized"),
        (play.fails(429, code="insufficient_quota"), "quota"),
    ],
)
def test_hopeless_fault_is_not_tried_again(server: Server, behaviour: Behaviour, reason: str) -> None:
    server.script = [behaviour, play.answers()]
    error = refused(model(server))
    assert (error.reason, error.attempts, len(server.bodies)) == (reason, 1, 1)


@pytest.mark.parametrize("status", [200, 500])
def test_flood_is_cut_off_early(server: Server, status: int) -> None:
    server.script = [play.floods(status)]
    error = refused(model(server))
    assert (error.reason, error.attempts) == ("too_large", 1)
    assert server.flooded < 50_000_000


@pytest.mark.parametrize("behaviour", [play.hangs, play.drips, play.drips_headers, play.drips_error, play.stalls])
def test_call_ends_at_its_deadline_however_the_server_dawdles(server: Server, behaviour: Behaviour) -> None:
    server.script = [behaviour]
    started = time.monotonic()
    error = refused(model(server, call_timeout_s=0.4))
    assert (error.reason, error.timed_out, error.attempts) == ("timeout", True, 2)
    assert time.monotonic() - started < 3


def test_a_call_that_took_too_long_is_tried_once_more(server: Server) -> None:
    server.script = [play.hangs, play.answers()]
    answer = model(server, call_timeout_s=0.4).ask(REQUEST)
    assert (answer.text, answer.attempts) == ("Hello.", 2)


def test_a_time_out_after_other_faults_is_the_end(server: Server) -> None:
    server.script = [play.fails(500), play.fails(500), play.hangs]
    error = refused(model(server, call_timeout_s=0.4, uniform=lambda _low, _high: 0.0))
    assert (error.reason, error.attempts) == ("timeout", 3)


def test_a_wait_longer_than_a_call_is_handed_up(server: Server) -> None:
    server.script = [play.fails(429, headers={"Retry-After": "6"}), play.answers()]
    error = refused(model(server, call_timeout_s=5.0))
    assert (error.reason, error.attempts, error.retry_after_s) == ("rate_limited", 1, 6)


def test_deadline_of_the_turn_comes_before_the_calls_own(server: Server) -> None:
    server.script = [play.hangs]
    started = time.monotonic()
    error = refused(model(server), replace(REQUEST, deadline=started + 0.2))
    assert error.timed_out
    assert time.monotonic() - started < 3


def test_call_after_its_deadline_asks_nobody(server: Server) -> None:
    error = refused(model(server), replace(REQUEST, deadline=time.monotonic() - 1))
    assert (error.timed_out, server.bodies) == (True, [])


def test_nobody_listening_is_a_connection_fault() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        silent = llm.Model("k", f"http://127.0.0.1:{taken.getsockname()[1]}/v1", sleep=lambda _: None)
        assert refused(silent).reason == "connection"


@pytest.mark.parametrize(
    ("headers", "waited"),
    [
        ({"Retry-After": "2"}, 2.0),
        ({"retry-after-ms": "1500", "Retry-After": "2"}, 1.5),
        ({"Retry-After": "0"}, 0.5),
        ({"Retry-After": "soon"}, 0.5),
        ({"Retry-After": "nan"}, 0.5),
        ({"Retry-After": format_datetime(datetime(2020, 1, 1, tzinfo=UTC), usegmt=True)}, 0.5),
    ],
)
def test_retry_after_is_honoured(server: Server, headers: dict[str, str], waited: float) -> None:
    server.script = [play.fails(429, headers=headers), play.answers()]
    pauses: list[float] = []
    assert model(server, pauses).ask(REQUEST).text == "Hello."
    assert pauses == [waited]


def test_retry_after_beyond_the_deadline_is_handed_up(server: Server) -> None:
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    server.script = [play.fails(503, headers={"Retry-After": at})]
    error = refused(model(server))
    assert (error.reason, error.attempts) == ("server_error", 1)
    assert error.retry_after_s == pytest.approx(90, abs=5)


def test_connection_is_kept_for_the_next_call(server: Server) -> None:
    asked = model(server)
    for _ in range(3):
        asked.ask(REQUEST)
    assert (len(server.bodies), len(server.ports)) == (3, 1)


def test_calls_of_many_threads_keep_to_their_own_deadlines(server: Server) -> None:
    server.script = [lambda handler: (play.hangs if handler.body["model"] == "slow" else play.answers())(handler)]
    asked = model(server)

    def outcome(name: str) -> str | None:
        late = time.monotonic() + (0.3 if name == "slow" else 5)
        try:
            return asked.ask(replace(REQUEST, model=name, deadline=late)).text
        except ModelUnavailable as error:
            return error.reason

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(outcome, ["slow", "fast"] * 4))
    assert outcomes == ["timeout", "Hello."] * 4


def test_no_words_and_no_keys_reach_errors_or_logs(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server.script = [play.fails(400, "cannot answer 'my secret words' with sk-secret"), play.answers()]
    error = refused(model(server))
    model(server).ask(REQUEST)
    told = caplog.text + repr(error) + str(error) + repr(error.__cause__)
    assert "secret" not in told
    assert caplog.records == []


class SlowStream(httpcore2.NetworkStream):
    """A stream that writes down how long each read and write may take."""

    def __init__(self) -> None:
        self.timeouts: list[float | None] = []

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self.timeouts.append(timeout)
        return b"x" * max_bytes

    def write(self, _buffer: bytes, timeout: float | None = None) -> None:
        self.timeouts.append(timeout)


class Network(httpcore2.NetworkBackend):
    def __init__(self, stream: SlowStream) -> None:
        self.stream = stream

    def connect_tcp(self, *_args: Any, **_options: Any) -> httpcore2.NetworkStream:
        return self.stream


def test_each_read_and_write_may_take_only_what_is_left_of_the_call() -> None:
    inner = SlowStream()
    stream = bounded.limited(Network(inner)).connect_tcp("model", 80)
    with bounded.within(bounded.Budget(time.monotonic() + 10, 100)):
        stream.read(60, timeout=20)
        stream.write(b"x", timeout=20)
        with pytest.raises(httpcore2.ReadError):
            stream.read(60, timeout=20)
    with bounded.within(bounded.Budget(time.monotonic(), 100)), pytest.raises(httpcore2.ReadTimeout):
        stream.read(1, timeout=20)
    assert [timeout is not None and timeout <= 10 for timeout in inner.timeouts] == [True, True, True]
    stream.read(1, timeout=20)
    assert inner.timeouts[-1] == 20


def test_offline_model_answers_through_the_same_client() -> None:
    asked = llm.Model(None, "http://offline/v1", http_transport=offline.transport())
    answer = asked.ask(replace(REQUEST, messages=({"role": "user", "content": "hello"},)))
    assert answer.model == "icmp-offline"
    assert answer.text
