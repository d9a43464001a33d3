"""Two instances over one database: spread evenly, limits exact, restarts unnoticed, and nothing said twice or lost."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests import redis_server
from tests.api.shop import ORDER_STATUS, SMALL_TALK
from tests.conftest import MASTER_KEY, Answer
from tests.deploy import instances
from tests.deploy.instances import Site
from tests.nlp import model_server
from tests.nlp.model_server import Handler

pytestmark = pytest.mark.skipif(instances.NGINX is None, reason=instances.MISSING)
PER_MINUTE = 20
MESSAGES = "/api/v1/messages"
# Of both instances, one after the other; a longer run by hand: ROLLING_RESTARTS=20 pytest -k rolling
RESTARTS = int(os.environ.get("ROLLING_RESTARTS", "1"))
AGAIN = {503, 504}  # what a client repeats, with the same key


@pytest.fixture(scope="module")
def site(own_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two instances behind the proxy, over one PostgreSQL and one Redis, with a model that takes its time: most kills
    hit a turn."""
    folder = tmp_path_factory.mktemp("site")
    chosen = {"DATABASE_URL": own_database, "RATE_LIMIT_MESSAGES_PER_MINUTE": str(PER_MINUTE), "TURN_LEASE_S": "4"}
    with model_server.running() as model, redis_server.running(folder) as buckets:
        model.script = [_think]
        chosen |= {"OPENAI_API_KEY": "sk-test", "OPENAI_BASE_URL": model.url, "OPENAI_MODEL": "m-1"}
        with instances.site(folder, RATE_LIMIT_STORAGE_URI=buckets.url, **chosen) as found:
            yield found


def _think(handler: Handler) -> None:
    time.sleep(0.15)
    kind = handler.body.get("response_format", {}).get("json_schema", {}).get("name")
    texts = {
        "stage_selection": json.dumps({"reason": "it fits", "stage": "order_status", "confidence": 0.9}),
        "data_extraction": json.dumps({"order_number": {"value": None, "quote": None}}),
    }
    model_server.answers(model_server.reply(texts.get(kind, "Which order is it?")))(handler)


@dataclass(frozen=True)
class Shop:
    """A business that is reached through the proxy."""

    site: Site
    business_id: str
    key: str

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request with the business's key."""
        return self.site.proxy.call(method, path, body, self.key, **headers)


@pytest.fixture
def shop(site: Site) -> Shop:
    """A new business with two stages."""
    body = {"owner_id": str(uuid.uuid4()), "business_name": f"Shop {uuid.uuid4().hex}"}
    created = site.proxy.call("POST", "/api/v1/businesses", body, MASTER_KEY)
    assert created.status == 201, created.body
    found = Shop(site, created.body["business_id"], created.body["api_key"])
    for stage in (ORDER_STATUS, SMALL_TALK):
        assert found.call("POST", "/api/v1/stages", stage).status == 201
    return found


@pytest.fixture
def busy_shop(shop: Shop) -> Shop:
    """The same, without a limit that matters."""
    settings = {"settings": {"messages_per_minute": 10_000}}
    assert shop.call("PATCH", f"/api/v1/businesses/{shop.business_id}", settings).status == 200
    return shop


@dataclass
class Dialogue:
    """One customer, who repeats a message with its key until it is answered."""

    shop: Shop
    session_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    user_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    said: list[str] = field(default_factory=list)
    replies: list[dict[str, Any]] = field(default_factory=list)
    repeats: int = 0

    def say(self, text: str) -> None:
        """Send a message and wait for its reply."""
        body = {"user_id": self.user_id, "session_id": self.session_id, "message": text}
        key = str(uuid.uuid4())
        deadline = time.monotonic() + instances.PATIENCE_SECONDS
        while True:
            answer = self._sent(body, key)
            if answer is not None and answer.status == 200:
                break
            assert answer is None or self._is_worth_repeating(answer), answer
            assert time.monotonic() < deadline, answer
            self.repeats += 1
            time.sleep(0.2)
        self.said.append(text)
        self.replies.append(answer.body)

    def _sent(self, body: dict[str, Any], key: str) -> Answer | None:
        try:
            return self.shop.call("POST", MESSAGES, body, Idempotency_Key=key)
        except OSError:
            return None

    def _is_worth_repeating(self, answer: Answer) -> bool:
        return answer.status in AGAIN or answer.error_code in {"TURN_IN_PROGRESS", "CONVERSATION_BUSY"}

    def kept(self) -> list[dict[str, Any]]:
        """The conversation as it is stored, oldest first."""
        ids = {reply["conversation_id"] for reply in self.replies}
        assert len(ids) == 1
        path = f"/api/v1/conversations/{ids.pop()}/messages?limit=500"
        return list(reversed(self.shop.call("GET", path).body))


def _play(shop: Shop, dialogues: int, lengths: int, meanwhile: Callable[[], None]) -> list[Dialogue]:
    played = [Dialogue(shop) for _ in range(dialogues)]

    def talk(dialogue: Dialogue) -> None:
        for number in range(lengths):
            dialogue.say(f"Where is my order {4000 + number}?")

    with ThreadPoolExecutor(dialogues) as threads:
        running = [threads.submit(talk, dialogue) for dialogue in played]
        meanwhile()
        for each in running:
            each.result()
    return played


def test_limits_are_exact_over_all_workers_of_both_instances(shop: Shop) -> None:
    body = {"user_id": str(uuid.uuid4()), "message": "Where is my order 4711?"}
    started = time.monotonic()
    with ThreadPoolExecutor(12) as threads:
        asked = [threads.submit(shop.call, "POST", MESSAGES, body) for _ in range(3 * PER_MINUTE)]
        answers = [each.result() for each in asked]
    let_through = sum(answer.status != 429 for answer in answers)
    came_back = (time.monotonic() - started) * PER_MINUTE / 60
    assert PER_MINUTE <= let_through <= PER_MINUTE + came_back + 1
    refused = next(answer for answer in answers if answer.status == 429)
    assert int(refused.headers["Retry-After"]) >= 1


def test_a_key_that_one_instance_revokes_is_dead_on_the_other(shop: Shop) -> None:
    keys = f"/api/v1/businesses/{shop.business_id}/api-keys"
    made = shop.call("POST", keys, {"name": "second"}).body
    second = Shop(shop.site, shop.business_id, made["api_key"])
    assert {second.call("GET", "/api/v1/stages").status for _ in range(8)} == {200}
    assert shop.call("DELETE", f"{keys}/{made['key_id']}").status == 204
    time.sleep(1)  # what the contract grants
    assert {second.call("GET", "/api/v1/stages").status for _ in range(8)} == {401}


def test_a_rolling_restart_is_noticed_by_nobody_who_reads(busy_shop: Shop) -> None:
    answers: list[Answer] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            answers.append(busy_shop.call("GET", "/api/v1/stages"))
            time.sleep(0.05)

    def restart() -> None:
        for instance in busy_shop.site.instances * RESTARTS:
            assert instance.stop() == 0
            instance.start()
            time.sleep(3)  # longer than the proxy leaves an instance alone that did not answer
        done.set()

    with ThreadPoolExecutor(3) as readers:
        reading = [readers.submit(read) for _ in range(3)]
        try:
            played = _play(busy_shop, dialogues=2, lengths=20 * RESTARTS, meanwhile=restart)
        finally:
            done.set()
        for each in reading:
            each.result()
    assert [answer.body for answer in answers if answer.status != 200] == []
    assert all(len(dialogue.replies) == 20 * RESTARTS for dialogue in played)
    repeats = sum(dialogue.repeats for dialogue in played)
    sys.stderr.write(f"{len(answers)} reads, {40 * RESTARTS} messages, {repeats} of them sent again\n")


def test_killed_instances_lose_no_message_and_double_no_reply(busy_shop: Shop) -> None:
    def kill_both_in_turn() -> None:
        for instance in busy_shop.site.instances:
            time.sleep(1)
            instance.kill()
            time.sleep(1)
            instance.start()

    played = _play(busy_shop, dialogues=6, lengths=15, meanwhile=kill_both_in_turn)
    assert sum(dialogue.repeats for dialogue in played) > 0, "the kills hit no request"
    for dialogue in played:
        kept = dialogue.kept()
        assert [each["message_content"] for each in kept if each["sender_type"] == "user"] == dialogue.said
        assert [each["sender_type"] for each in kept] == ["user", "ai"] * len(dialogue.said)
        assert [each["message_id"] for each in kept if each["sender_type"] == "ai"] == [
            reply["reply_id"] for reply in dialogue.replies
        ]
