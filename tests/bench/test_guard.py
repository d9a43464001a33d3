"""What a turn costs in things that can be counted exactly: round trips, transactions, model calls, bytes of prompts.

No timing: these numbers are the same on every machine. Whoever makes a turn cheaper lowers them, whoever makes it
dearer has to raise them and say why."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
from flask import Flask

from api.settings import Settings
from bench import scenario, stub_answers
from tests.api import shop
from tests.api.shop import Thinker
from tests.bench import sql_record
from tests.bench.sql_record import Record
from tests.conftest import Client, onboard
from tests.nlp import model_server
from tests.nlp.model_server import Handler


@dataclass(frozen=True)
class Cost:
    """Of one turn: three model calls, of which the first two run side by side."""

    round_trips: int
    transactions: int
    statements: int
    prompt_bytes: dict[str, int]
    model_calls: int = 3
    calls_in_sequence: int = 2


FIRST = Cost(
    round_trips=4,
    transactions=4,
    statements=4,
    prompt_bytes={"stage_selection": 3729, "data_extraction": 2910, "response_generation": 2594},
)
FOLLOWING = Cost(
    round_trips=4,
    transactions=4,
    statements=4,
    prompt_bytes={"stage_selection": 4030, "data_extraction": 3199, "response_generation": 2921},
)
POOL_SIZE = 3
CUSTOMERS = 12
PATIENCE_SECONDS = 5  # only a turn that went another way waits so long
SIDE_BY_SIDE = {"stage_selection", "data_extraction"}


@dataclass
class Listener:
    """A model that answers as the bench's stub does, and writes down what it was asked and when."""

    record: Record
    meeting: threading.Barrier = field(default_factory=lambda: threading.Barrier(2))
    is_meeting: bool = True
    sizes: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    met: int = 0
    awaited_inside: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, handler: Handler) -> None:
        body = handler.body
        kind = body.get("response_format", {}).get("json_schema", {}).get("name", "response_generation")
        with self.lock:
            self.calls += 1
            self.sizes[kind] += int(handler.headers["Content-Length"])
            self.awaited_inside += len(self.record.inside)
        if self.is_meeting and kind in SIDE_BY_SIDE:
            self._meet()
        content = stub_answers.text(body, tokens=40)
        model_server.answers(model_server.reply(content))(handler)

    def clear(self) -> None:
        """Forget."""
        self.calls = self.met = 0
        self.sizes.clear()
        self.record.clear()

    def _meet(self) -> None:
        """Both calls are here before either is answered: that they run side by side needs no clock."""
        try:
            first = self.meeting.wait(PATIENCE_SECONDS) == 0
        except threading.BrokenBarrierError:
            return
        with self.lock:
            self.met += first


@dataclass(frozen=True)
class Counted:
    """A furnished shop, its model and what is counted."""

    client: Client
    model: Listener

    def turn(self, message: str, user_id: str) -> Cost:
        """What answering this message costs."""
        self.model.clear()
        answered = shop.write(self.client, message, user_id)
        assert (answered.status, answered.body["degraded"]) == (200, False), answered.body
        record = self.model.record
        return Cost(
            round_trips=len(record.trips),
            transactions=record.transactions,
            statements=len(record.statements),
            prompt_bytes=dict(self.model.sizes),
            model_calls=self.model.calls,
            calls_in_sequence=self.model.calls - self.model.met,
        )


@pytest.fixture
def counted(settings: Settings, serve: Callable[[Flask], int]) -> Iterator[Counted]:
    with sql_record.recording() as record, shop.thinking(settings, serve, db_pool_size=POOL_SIZE) as thinker:
        listener = Listener(record)
        thinker.server.script = [listener]
        yield Counted(_opened(thinker), listener)


def _opened(thinker: Thinker) -> Client:
    client = onboard(thinker.master, "Shop", business_description=scenario.DESCRIPTION)
    shop.furnish(client, *scenario.stages(client.business_id))
    return client


def test_a_turn_costs_exactly_this(counted: Counted) -> None:
    counted.turn("What is the status of my order 441187?", scenario.new_user())  # keys and set-up are in memory now
    user_id, (first, following, *_) = scenario.new_user(), next(scenario.conversations())
    assert vars(counted.turn(first, user_id)) == vars(FIRST)
    assert vars(counted.turn(following, user_id)) == vars(FOLLOWING)
    assert counted.model.awaited_inside == 0, "a transaction was open while a model was awaited"


def test_no_more_connections_than_the_pool_has_even_with_more_customers_than_connections(counted: Counted) -> None:
    counted.model.is_meeting = False
    said = [next(scenario.conversations())[0]] * CUSTOMERS
    before = counted.model.record.connections
    with ThreadPoolExecutor(CUSTOMERS) as customers:
        answers = list(customers.map(lambda message: shop.write(counted.client, message), said))
    assert [answer.status for answer in answers] == [200] * CUSTOMERS
    assert before <= counted.model.record.connections <= POOL_SIZE


def test_prompts_stop_growing_with_the_conversation(counted: Counted) -> None:
    counted.model.is_meeting = False
    user_id, long_words = scenario.new_user(), "I would like to tell you more about my tent. " * 60
    sizes = [sum(counted.turn(long_words, user_id).prompt_bytes.values()) for _ in range(12)]
    assert sizes[1] > sizes[0], json.dumps(sizes)
    assert sizes[-1] == sizes[-2] == sizes[-3], json.dumps(sizes)


def test_a_record_tells_statements_from_their_frame() -> None:
    frame = "SELECT set_config('role', 'icmp_app', true), set_config('icmp.business_id', 'x', true)"
    record = Record(trips=[f"BEGIN;{frame}", "SELECT 1", "COMMIT", f"{frame};SET LOCAL a = b; SELECT 2"])
    assert record.statements == ["SELECT 1", "SELECT 2"]


def test_one_message_of_eight_changes_the_subject_and_costs_a_call_more(counted: Counted) -> None:
    counted.model.is_meeting = False
    user_id, said = scenario.new_user(), next(scenario.conversations())
    assert [counted.turn(message, user_id).model_calls for message in said] == [3, 3, 3, 3, 4, 3, 3, 3]
    [conversation] = counted.client.get(f"/api/v1/conversations?user_id={user_id}").body
    assert conversation["stage_name"] == "returns"
    assert conversation["data"]["order_number"] == "558203"
