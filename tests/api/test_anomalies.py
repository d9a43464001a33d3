"""Anomalies: what counts as one, how often it is told, and that it changes no answer."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest
from flask import Flask
from prometheus_client import REGISTRY

from api import anomalies
from api.settings import Settings
from tests.api import people
from tests.conftest import Client
from tests.listening import Lines, listening


@dataclass
class Clock:
    """Minutes that pass when told."""

    minutes: float = 1000

    def __call__(self) -> float:
        """Seconds."""
        return self.minutes * 60


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watch(clock: Clock) -> anomalies.Watch:
    return anomalies.Watch(clock)


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What the security log says."""
    with listening("icmp.security") as heard:
        yield heard


def _events(kind: str) -> float:
    return REGISTRY.get_sample_value("icmp_security_events_total", {"kind": kind}) or 0


def _ask(watch: anomalies.Watch, business_id: str, times: int) -> None:
    for _ in range(times):
        watch.asked(business_id)


def test_a_burst_is_told_once_a_minute_and_with_the_minute_before(
    watch: anomalies.Watch, clock: Clock, lines: Lines
) -> None:
    before = _events("unauthorized_burst")
    for _ in range(3):
        for _ in range(50):
            watch.refused(401, "203.0.113.9/32", address="203.0.113.0/24")
        clock.minutes += 1
    clock.minutes += 1
    for _ in range(10):
        watch.refused(401, "203.0.113.9/32", address="203.0.113.0/24")
    assert [(line["kind"], line["address"]) for line in lines.written] == [("unauthorized_burst", "203.0.113.0/24")] * 4
    assert [(line["count"], line["minute_before"]) for line in lines.written] == [(10, 0), (10, 50), (10, 50), (10, 0)]
    assert _events("unauthorized_burst") == before + 4
    assert {line["source"] for line in lines.written} == {"icmp.security"}


def test_a_few_refusals_and_those_of_many_are_no_burst(watch: anomalies.Watch, clock: Clock, lines: Lines) -> None:
    for number in range(300):
        watch.refused(403, f"203.0.113.{number}/32")
    for _ in range(30):
        for status in (401, 403, 429):
            for _ in range(9):
                watch.refused(status, "198.51.100.1/32")
        clock.minutes += 1
    assert lines.written == []


def test_traffic_far_above_the_usual_is_told_once_a_minute(watch: anomalies.Watch, clock: Clock, lines: Lines) -> None:
    usual, other = str(uuid.uuid4()), str(uuid.uuid4())
    for _ in range(30):
        _ask(watch, usual, 40)
        _ask(watch, other, 5)
        clock.minutes += 1
    _ask(watch, usual, 399)
    _ask(watch, other, 99)
    assert lines.written == []
    _ask(watch, usual, 100)
    _ask(watch, other, 100)
    told = [
        {name: line[name] for name in ("kind", "business_id", "count", "usual_per_minute")} for line in lines.written
    ]
    assert told == [
        {"kind": "traffic_surge", "business_id": usual, "count": 400, "usual_per_minute": 40.0},
        {"kind": "traffic_surge", "business_id": other, "count": 100, "usual_per_minute": 5.0},
    ]


def test_nothing_is_unusual_of_who_was_never_seen_before(watch: anomalies.Watch, clock: Clock, lines: Lines) -> None:
    for _ in range(9):
        _ask(watch, "new", 500)
        clock.minutes += 1
    assert lines.written == []


def test_silence_makes_the_usual_less_and_a_lasting_surge_becomes_usual(
    watch: anomalies.Watch, clock: Clock, lines: Lines
) -> None:
    for _ in range(10):
        _ask(watch, "busy", 60)
        clock.minutes += 1
    _ask(watch, "busy", 599)
    assert lines.written == []
    clock.minutes += 24 * 60
    _ask(watch, "busy", 120)
    assert len(lines.written) == 1
    for _ in range(60):
        clock.minutes += 1
        _ask(watch, "busy", 120)
    told = len(lines.written)
    assert told < 20
    clock.minutes += 1
    _ask(watch, "busy", 120)
    assert len(lines.written) == told


def test_only_the_subjects_seen_last_are_kept() -> None:
    recent = anomalies.Recent(anomalies.Refusals, 2)
    for subject in ("old", "kept", "old", "new"):
        recent.of(subject).add(1)
    assert [recent.of(subject).count for subject in ("old", "new", "kept")] == [2, 1, 0]


def test_a_burst_over_http_names_a_network_the_key_and_the_business_and_changes_nothing(
    settings: Settings, serve: Callable[[Flask], int], alice: Client, charlie: Client, lines: Lines
) -> None:
    port, key = serve(people.behind_proxy(settings)), alice.key or ""
    for address in ("203.0.113.77", "2001:db8:aa:bb:cc::1"):
        guesser = Client(port, headers={"X-Forwarded-For": address})
        answers = [guesser.get("/api/v1/stages") for _ in range(25)]
        assert {(answer.status, answer.error_code) for answer in answers} == {(401, "UNAUTHORIZED")}
    curious, foreign = replace(alice, port=port), f"/api/v1/stages?business_id={charlie.business_id}"
    assert {curious.get(foreign).status for _ in range(25)} == {403}
    assert [(line["kind"], line.get("address")) for line in lines.written] == [
        ("unauthorized_burst", "203.0.113.0/24"),
        ("unauthorized_burst", "2001:db8:aa::/48"),
        ("forbidden_burst", "127.0.0.0/24"),
        ("forbidden_burst", None),
    ]
    by_key = lines.written[-1]
    assert uuid.UUID(by_key["key_id"])
    assert (by_key["business_id"], by_key["count"]) == (alice.business_id, 10)
    assert "203.0.113.77" not in str(lines.written)
    assert key not in str(lines.written)
