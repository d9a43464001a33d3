"""Whole turns against a model server that does all it can do wrong, asked plainly and for a stream: each ends in time,
with the stage's own text or none, and its ledger says why."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from db.turns import Step
from nlp import llm, pipeline
from nlp.data_retrieval import ApiCall, Request
from nlp.errors import LookUpFailed, ModelUnavailable
from nlp.turn import Turn
from tests.nlp import model_server as play
from tests.nlp import streams, turns
from tests.nlp.model_server import Behaviour, Handler, Server

WORD = streams.chunk("Hel")
GOOD = {"stage_selection": turns.chosen("order_status"), "data_extraction": turns.GIVEN}


@pytest.fixture
def server() -> Iterator[Server]:
    with play.running() as running:
        yield running


def at(kind: str, behaviour: Behaviour) -> Behaviour:
    """The behaviour at this kind of call; the others are answered well."""

    def play_it(handler: Handler) -> None:
        asked = handler.body.get("response_format", {"json_schema": {"name": "response_generation"}})
        name = asked["json_schema"]["name"]
        if name == kind:
            behaviour(handler)
        elif name in GOOD:
            play.answers(play.reply(json.dumps(GOOD[name])))(handler)
        else:
            play.answers(play.reply("It is on its way."))(handler)

    return play_it


def both(plain: Behaviour, streamed: Behaviour) -> Behaviour:
    """One behaviour when asked plainly, another when asked for a stream."""
    return lambda handler: (streamed if handler.body.get("stream") else plain)(handler)


@dataclass
class Ended:
    """How a turn ended."""

    turn: Turn
    error: ModelUnavailable | None
    told: list[str]
    seconds: float

    @property
    def step(self) -> Step:
        return self.turn.steps[-1]


def run(server: Server, *, stream: bool, fallback: bool, seconds: float = 8.0, **changes: Any) -> Ended:
    """One turn with a model at this server, in the stage order_status."""
    stage = turns.stage(
        "order_status", output_schema=turns.ORDER_FIELDS, fallback_text="Please call us." if fallback else None
    )
    started = time.monotonic()
    before = turns.turn(stages=(stage, turns.GREETING), stage=stage, deadline=started + seconds)
    asked = play.model(server, **({"call_timeout_s": seconds} | changes))
    told: list[str] = []
    seen, error = [before], None
    try:
        for turn in pipeline.run(before, asked.ask, tell=told.append if stream else None):
            seen.append(turn)
    except ModelUnavailable as unavailable:
        error = unavailable
    return Ended(seen[-1], error, told, time.monotonic() - started)


def whole(text: str | None, finish_reason: str = "stop", refusal: str | None = None) -> Behaviour:
    """The same answer, plain or in two chunks."""
    half = len(text or "") // 2
    said = [streams.chunk((text or "")[:half]), streams.chunk((text or "")[half:], refusal=refusal)]
    return both(
        play.answers(play.reply(text, finish_reason=finish_reason, refusal=refusal)),
        streams.streams([*said, streams.chunk(finish_reason=finish_reason), streams.DONE]),
    )


# What the server does, the reason in the ledger, how often it is tried.
NO_ANSWER: dict[str, tuple[Behaviour, str, int]] = {
    "500": (play.fails(500), "server_error", 3),
    "429": (play.fails(429), "rate_limited", 3),
    "429 that wants a longer wait than there is": (play.fails(429, headers={"Retry-After": "60"}), "rate_limited", 1),
    "401": (play.fails(401), "unauthorized", 1),
    "400": (play.fails(400), "rejected", 1),
    "no quota": (play.fails(429, code="insufficient_quota"), "quota", 1),
    "reset": (play.resets, "connection", 3),
    "reset in the middle": (both(play.cuts, streams.resets_after([streams.chunk("")])), "connection", 3),
    "cut off in the middle": (both(play.cuts, streams.streams([streams.chunk("")])), "", 3),
    "html": (play.answers(b"<html>Hello</html>", content_type="text/html"), "bad_response", 3),
    "invalid JSON": (both(play.answers(b"{"), streams.streams([b"data: {\n\n"])), "bad_response", 3),
    "no choices": (
        both(play.answers({"choices": []}), streams.streams([streams.event({"choices": []}), streams.DONE])),
        "bad_response",
        3,
    ),
    "200 MB": (both(play.floods(200), streams.floods(b"x" * 60_000)), "too_large", 1),
    "200 MB of events": (both(play.floods(200), streams.floods(streams.chunk(""))), "too_large", 1),
}
SLOW: dict[str, Behaviour] = {
    "hang": play.hangs,
    "drip": both(play.drips, streams.drips),
    "dripping headers": play.drips_headers,
    "stall": both(play.stalls, streams.streams([WORD], ends=False)),
}
BAD_ANSWERS: dict[str, tuple[Behaviour, str | None, str]] = {
    "refusal": (whole(None, refusal="I must not."), "I must not.", "it was a refusal"),
    "cut off": (whole("Half a", "length"), "Half a", "it was cut off before its end"),
    "filtered": (whole("Half a", "content_filter"), "Half a", "it was filtered"),
    "empty": (whole(""), None, "it was empty"),
    "blank": (whole(" \n\u200b "), None, "it was empty"),
    "too long": (whole("x" * 40_000), "x" * 32_000, "it was longer than 32000 characters"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fallback", [False, True])
@pytest.mark.parametrize("name", NO_ANSWER)
def test_fault_of_the_server_ends_in_the_stages_text_or_in_an_unavailable_model(
    server: Server, name: str, stream: bool, fallback: bool
) -> None:
    behaviour, reason, tries = NO_ANSWER[name]
    server.script = [at("response_generation", behaviour)]
    ended = run(server, stream=stream, fallback=fallback)
    reason = reason or ("bad_response" if stream else "connection")
    assert (ended.step.kind, ended.step.outcome, ended.step.attempts) == ("response_generation", "failed", tries)
    assert ended.step.verdict == {"reason": reason}
    if fallback:
        assert (ended.turn.response, ended.turn.degraded, ended.error) == ("Please call us.", True, None)
        assert ended.told == (["Please call us."] if stream else [])
    else:
        assert ended.error is not None
        assert (ended.error.reason, ended.turn.response, ended.told) == (reason, None, [])
        assert ended.error.retry_after_s == (60 if "longer wait" in name else None)
    assert ended.turn.data == {"order_number": "4411"}
    assert ended.seconds < 8


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", SLOW)
def test_turn_ends_at_its_own_deadline_however_slow_the_server_is(server: Server, name: str, stream: bool) -> None:
    server.script = [at("response_generation", SLOW[name])]
    ended = run(server, stream=stream, fallback=False, seconds=1.0, call_timeout_s=60.0)
    assert ended.error is not None
    assert (ended.error.timed_out, ended.step.verdict) == (True, {"reason": "timeout"})
    assert ended.seconds < 5


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fallback", [False, True])
@pytest.mark.parametrize("name", BAD_ANSWERS)
def test_bad_answer_is_asked_again_once_then_made_do_with(
    server: Server, name: str, stream: bool, fallback: bool
) -> None:
    behaviour, words, fault = BAD_ANSWERS[name]
    server.script = [at("response_generation", behaviour)]
    ended = run(server, stream=stream, fallback=fallback)
    asked = [body["messages"][-1]["content"] for body in server.bodies if "response_format" not in body]
    assert len(asked) == 2
    assert f"could not be used: {fault}" in asked[1]
    assert ended.step.attempts == 2
    if fallback:
        assert (ended.turn.response, ended.step.outcome) == ("Please call us.", "fallback")
    elif words is not None:
        assert (ended.turn.response, ended.turn.degraded, ended.step.outcome) == (words, True, "safe_default")
    else:
        assert ended.error is not None
        assert (ended.error.reason, ended.step.outcome) == ("empty_answer", "failed")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", ["stage_selection", "data_extraction"])
@pytest.mark.parametrize("name", [*NO_ANSWER, "refusal", "empty", "cut off"])
def test_fault_before_the_reply_keeps_stage_and_data(server: Server, name: str, kind: str, stream: bool) -> None:
    behaviour = NO_ANSWER[name][0] if name in NO_ANSWER else BAD_ANSWERS[name][0]
    server.script = [at(kind, behaviour)]
    ended = run(server, stream=stream, fallback=True)
    row = next(step for step in ended.turn.steps if step.kind == kind)
    assert row.outcome == ("failed" if name in NO_ANSWER else "safe_default")
    assert (ended.turn.stage, ended.error) == (ended.turn.stages[0], None)
    assert ended.turn.response == ("Please call us." if name in NO_ANSWER else "It is on its way.")
    assert "".join(ended.told) == (ended.turn.response if stream else "")
    assert all("stream" not in body for body in server.bodies if "response_format" in body)


def test_wrong_enum_is_asked_again_then_the_stage_is_kept(server: Server) -> None:
    server.script = [at("stage_selection", whole(json.dumps(turns.chosen("no_such_stage"))))]
    ended = run(server, stream=True, fallback=False)
    assert ended.turn.steps[0].outcome == "safe_default"
    assert "is not one of" in ended.turn.steps[0].verdict["fault"]
    assert (ended.turn.response, ended.told) == ("It is on its way.", ["It is on its way."])


@pytest.mark.parametrize("stream", [False, True])
def test_nobody_listening_is_known_at_once(stream: bool) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        asked = llm.Model("k", f"http://127.0.0.1:{taken.getsockname()[1]}/v1", sleep=lambda _: None)
        told: list[str] = []
        with pytest.raises(ModelUnavailable, match="connection"):
            list(pipeline.run(turns.turn(), asked.ask, tell=told.append if stream else None))


def test_one_deadline_covers_all_steps_their_second_askings_and_the_look_up(server: Server) -> None:
    """A server that answers each call badly and just before it is too late cannot make a turn last."""

    def slowly(handler: Handler) -> None:
        handler.server.released.wait(0.5)
        play.answers(play.reply("rubbish"))(handler)

    server.script = [slowly]
    section = {"method": "api_call", "config": {"url": "https://orders.example/"}}
    stage = turns.stage("order_status", output_schema=turns.ORDER_FIELDS, data_retrieval=section)
    started = time.monotonic()
    deadline = started + 2.2
    before = turns.turn(stages=(stage, turns.GREETING), stage=stage, data={"order_number": "4411"}, deadline=deadline)
    limits: list[float] = []

    def look_up(request: Request) -> list[dict[str, Any]]:
        assert isinstance(request, ApiCall)
        limits.append(request.deadline)
        raise LookUpFailed("timeout")

    with pytest.raises(ModelUnavailable) as caught:
        list(pipeline.run(before, play.model(server).ask, None, look_up))
    assert caught.value.timed_out
    assert time.monotonic() - started < 4
    assert limits == [deadline]


def test_retry_after_that_fits_is_waited_for(server: Server) -> None:
    busy, good = play.fails(429, headers={"Retry-After": "2"}), play.answers()
    server.script = [at("", good), at("", good), at("response_generation", busy), at("", good)]
    pauses: list[float] = []
    ended = run(server, stream=True, fallback=False, sleep=pauses.append)
    assert (ended.turn.response, ended.step.attempts, pauses) == ("It is on its way.", 2, [2.0])


def test_reset_after_the_first_words_leaves_the_final_text_to_the_reply(server: Server) -> None:
    broken = both(play.answers(play.reply("All of it.")), streams.resets_after([WORD]))
    server.script = [at("response_generation", broken)]
    ended = run(server, stream=True, fallback=True)
    assert (ended.told, ended.turn.response, ended.turn.degraded) == (["Hel"], "All of it.", False)
    assert (ended.step.outcome, ended.step.attempts) == ("ok", 2)
