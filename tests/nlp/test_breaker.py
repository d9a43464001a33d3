"""The circuit breaker, by a clock of its own; and the model behind it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from nlp import breaker, llm
from nlp.breaker import Breaker, BreakerOpen, Health
from nlp.errors import ModelUnavailable
from tests.nlp import model_server as play
from tests.nlp import turns
from tests.nlp.model_server import REQUEST, Behaviour, Server, model, refused


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def changes() -> list[tuple[str, bool]]:
    return []


@pytest.fixture
def guard(clock: Clock, changes: list[tuple[str, bool]]) -> Breaker:
    return Breaker(lambda name, is_open: changes.append((name, is_open)), clock)


def calls(guard: Breaker, health: Health, times: int = 1, name: str = "m") -> None:
    for _ in range(times):
        guard.leave(guard.enter(name), health)


def is_open(guard: Breaker, name: str = "m") -> bool:
    try:
        guard.leave(guard.enter(name), "unknown")
    except BreakerOpen:
        return True
    return False


def test_half_of_ten_calls_open_it(guard: Breaker, changes: list[tuple[str, bool]]) -> None:
    calls(guard, "well", 5)
    calls(guard, "ill", 4)
    assert not is_open(guard)
    calls(guard, "ill")
    assert is_open(guard)
    assert changes == [("m", True)]


def test_fewer_failures_or_fewer_calls_do_not(guard: Breaker) -> None:
    calls(guard, "ill", 9)
    assert not is_open(guard)
    calls(guard, "well", 30, "n")
    calls(guard, "ill", 29, "n")
    assert not is_open(guard, "n")


def test_failures_are_forgotten_after_half_a_minute(guard: Breaker, clock: Clock) -> None:
    calls(guard, "ill", 9)
    clock.now += breaker.WINDOW_SECONDS + 1
    calls(guard, "ill")
    assert not is_open(guard)


def test_one_model_says_nothing_about_another(guard: Breaker) -> None:
    calls(guard, "ill", 10)
    assert (is_open(guard), is_open(guard, "other")) == (True, False)


@pytest.mark.parametrize("health", ["alive", "unknown"])
def test_what_says_nothing_about_the_server_is_not_counted(guard: Breaker, health: Health) -> None:
    calls(guard, health, 100)
    calls(guard, "ill", 9)
    assert not is_open(guard)
    calls(guard, "ill")
    assert is_open(guard)


def test_open_one_tells_when_to_come_back(guard: Breaker, clock: Clock) -> None:
    calls(guard, "ill", 10)
    clock.now += 2
    with pytest.raises(BreakerOpen) as caught:
        guard.enter("m")
    assert caught.value.retry_after_s == pytest.approx(3.0)


def test_as_many_probes_as_a_turn_asks_at_once_are_let_through(guard: Breaker, clock: Clock) -> None:
    calls(guard, "ill", 10)
    clock.now += breaker.PROBE_SECONDS
    probes = [guard.enter("m") for _ in range(breaker.PROBES)]
    assert all(probe.is_probe for probe in probes)
    assert is_open(guard)
    for probe in probes:
        guard.leave(probe, "ill")
    assert is_open(guard)
    clock.now += breaker.PROBE_SECONDS
    assert guard.enter("m").is_probe


@pytest.mark.parametrize("health", ["well", "alive"])
def test_probe_that_is_answered_closes_it(
    guard: Breaker, clock: Clock, changes: list[tuple[str, bool]], health: Health
) -> None:
    calls(guard, "ill", 10)
    clock.now += breaker.PROBE_SECONDS
    calls(guard, health)
    assert changes == [("m", True), ("m", False)]
    calls(guard, "ill", 9)
    assert not is_open(guard)


def test_probe_that_never_comes_back_delays_only_the_next(guard: Breaker, clock: Clock) -> None:
    calls(guard, "ill", 10)
    clock.now += breaker.PROBE_SECONDS
    guard.enter("m")
    clock.now += breaker.PROBE_SECONDS
    calls(guard, "well")
    assert not is_open(guard)


def test_late_answer_of_an_older_call_does_not_close_it(guard: Breaker, changes: list[tuple[str, bool]]) -> None:
    older = guard.enter("m")
    calls(guard, "ill", 10)
    guard.leave(older, "well")
    assert is_open(guard)
    assert changes == [("m", True)]


def test_only_so_many_models_are_remembered(guard: Breaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "MAX_MODELS", 3)
    calls(guard, "ill", 10, "open")
    for number in range(50):
        calls(guard, "ill", 9, f"model-{number}")
    assert is_open(guard, "open")
    calls(guard, "ill", 1, "model-49")
    calls(guard, "ill", 10, "one-more")
    assert is_open(guard, "one-more")
    calls(guard, "ill", 100, "no-room")
    assert not is_open(guard, "no-room")
    assert all(is_open(guard, name) for name in ("open", "model-49", "one-more"))


def test_a_probe_may_come_back_when_its_model_is_forgotten(
    guard: Breaker, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls(guard, "ill", 10)
    clock.now += breaker.PROBE_SECONDS
    first, second = guard.enter("m"), guard.enter("m")
    guard.leave(first, "well")
    monkeypatch.setattr(breaker, "MAX_MODELS", 1)
    calls(guard, "ill", 1, "another")
    guard.leave(second, "well")
    assert not is_open(guard)


def test_many_threads_open_it_once(guard: Breaker, changes: list[tuple[str, bool]]) -> None:
    together = threading.Barrier(8)

    def work() -> None:
        together.wait()
        for _ in range(200):
            try:
                ticket = guard.enter("m")
            except BreakerOpen:
                return
            guard.leave(ticket, "ill")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert changes == [("m", True)]


@pytest.fixture
def server() -> Iterator[Server]:
    with play.running() as running:
        yield running


@pytest.mark.parametrize(
    "behaviour", [play.fails(500), play.fails(429), play.resets, play.answers(b"<html>"), play.answers({"choices": []})]
)
def test_ill_server_is_left_alone(server: Server, clock: Clock, behaviour: Behaviour) -> None:
    server.script = [behaviour]
    told: list[tuple[str, bool]] = []
    asked = model(server, clock=clock, on_breaker=lambda name, is_open: told.append((name, is_open)))
    reasons = [refused(asked).reason for _ in range(10)]
    assert (told, "breaker_open" in reasons, len(server.bodies)) == ([("m-1", True)], False, 30)
    started = time.monotonic()
    error = refused(asked)
    assert (error.reason, error.attempts, error.timed_out) == ("breaker_open", 0, False)
    assert error.retry_after_s == pytest.approx(5.0)
    assert time.monotonic() - started < 1
    assert len(server.bodies) == 30
    server.script = [play.answers()]
    clock.now += 5
    assert asked.ask(REQUEST).text == "Hello."
    assert asked.ask(REQUEST).attempts == 1
    assert told == [("m-1", True), ("m-1", False)]


def test_what_goes_well_in_the_end_went_well(server: Server, clock: Clock) -> None:
    server.script = [play.fails(500), play.fails(429), play.answers()] * 20 + [play.answers()]
    asked = model(server, clock=clock)
    assert [asked.ask(REQUEST).attempts for _ in range(20)] == [3] * 20


@pytest.fixture
def probing(server: Server, clock: Clock) -> llm.Model:
    """A model that was ill and may be asked again now."""
    server.script = [play.fails(500)]
    asked = model(server, clock=clock)
    for _ in range(10):
        refused(asked)
    clock.now += breaker.PROBE_SECONDS
    return asked


def test_a_turn_that_probes_is_answered(server: Server, probing: llm.Model) -> None:
    together = threading.Barrier(2, timeout=10)

    def answers_both(handler: play.Handler) -> None:
        together.wait()
        play.answers()(handler)

    server.script = [answers_both]
    with ThreadPoolExecutor(2) as threads:
        assert [each.text for each in threads.map(probing.ask, [REQUEST, REQUEST])] == ["Hello.", "Hello."]


def test_a_probe_is_one_try(probing: llm.Model) -> None:
    assert [refused(probing).attempts for _ in range(3)] == [1, 1, 0]


@pytest.mark.parametrize(
    "behaviour",
    [
        play.fails(400),
        play.fails(401),
        play.fails(404),
        play.fails(429, code="insufficient_quota"),
        play.answers(play.reply(None, refusal="No.")),
        play.answers(play.reply("")),
        play.floods(200),
    ],
)
def test_fault_that_is_not_the_servers_never_opens_it(server: Server, behaviour: Behaviour) -> None:
    def broken(_name: str, _is_open: bool) -> None:
        raise AssertionError

    server.script = [behaviour]
    asked = model(server, on_breaker=broken)
    for _ in range(12):
        try:
            asked.ask(REQUEST)
        except ModelUnavailable as error:
            assert error.reason != "breaker_open"
    assert len(server.bodies) == 12


def test_nobody_listening_opens_it(clock: Clock) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        silent = llm.Model("k", url, sleep=lambda _: None, clock=clock)
        assert [refused(silent).reason for _ in range(11)] == ["connection"] * 10 + ["breaker_open"]


@pytest.mark.parametrize(
    ("left", "reason"), [(lambda: time.monotonic() + 0.1, "timeout"), (lambda: float("inf"), "breaker_open")]
)
def test_only_those_who_had_time_say_that_a_server_is_slow(
    server: Server, left: Callable[[], float], reason: str, clock: Clock
) -> None:
    server.script = [play.hangs]
    asked = model(server, call_timeout_s=0.3, clock=clock)
    assert [refused(asked, replace(REQUEST, deadline=left())).reason for _ in range(11)][-1] == reason


def test_ledger_names_the_open_breaker(server: Server, clock: Clock) -> None:
    server.script = [play.fails(500)]
    asked = model(server, clock=clock)
    for _ in range(10):
        refused(asked, replace(REQUEST, model="gpt-5.4-mini"))
    stage = turns.stage("order_status", fallback_text="Please call us.")
    after = turns.run(turns.turn(stages=(stage,)), asked.ask)
    step = after.steps[-1]
    assert (after.response, after.degraded) == ("Please call us.", True)
    assert (step.outcome, step.attempts, step.verdict) == ("failed", 0, {"reason": "breaker_open"})
    assert after.usage["cost_usd"] == 0
