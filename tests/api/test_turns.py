"""Whole turns over HTTP with a scripted model: side by side, asked again, degraded, failed, overtaken by staff."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from flask import Flask

from api.settings import Settings
from nlp.llm import Request
from tests.api import shop
from tests.api.shop import Gate, Slow, Thinker, finds, picks, says
from tests.conftest import Client
from tests.nlp.model_server import Behaviour, Handler, fails, hangs

ORDER = "Where is my order or parcel 4411?"
COMPLAINT = shop.stage("complaint", "Something is broken.", fields={"problem": {"type": "string"}})
GOOD: dict[str, Behaviour] = {
    "stage_selection": picks("order_status"),
    "data_extraction": finds(order_number="4411"),
    "response_generation": says("It is on its way."),
}
DOWN = fails(503, headers={"Retry-After": "7"})


@pytest.fixture(scope="module")
def thinker(settings: Settings, serve: Callable[[Flask], int]) -> Iterator[Thinker]:
    with shop.thinking(settings, serve) as made:
        yield made


@pytest.fixture
def client(thinker: Thinker) -> Client:
    """A business whose stages have no texts for when the model is down."""
    return thinker.shop(shop.ORDER_STATUS, shop.SMALL_TALK)


def _while_thinking(
    thinker: Thinker, client: Client, kind: str = "response_generation"
) -> AbstractContextManager[Slow]:
    return shop.while_thinking(thinker, client, ORDER, GOOD, kind)


def _ledger(client: Client, conversation_id: str) -> dict[str, Any]:
    latest = client.get(f"/api/v1/conversations/{conversation_id}/turns").body[0]
    turn: dict[str, Any] = client.get(f"/api/v1/turns/{latest['turn_id']}").body
    return turn


def _steps(turn: dict[str, Any]) -> list[tuple[str, str]]:
    return [(step["kind"], step["outcome"]) for step in turn["steps"]]


def _spoken(client: Client, conversation_id: str) -> list[tuple[str, str]]:
    """Who said what, oldest first."""
    told = client.get(f"/api/v1/conversations/{conversation_id}/messages").body
    return [(message["sender_type"], message["message_content"]) for message in reversed(told)]


def test_a_turn_answers_and_its_ledger_says_how(thinker: Thinker, client: Client) -> None:
    thinker.script(**GOOD)
    answered = shop.write(client, ORDER)
    assert (answered.status, answered.body["response"]) == (200, "It is on its way.")
    assert answered.body["stage"]["stage_name"] == "order_status"
    assert (answered.body["stage"]["confidence"], answered.body["model"]) == (0.9, "m-1")
    assert answered.body["usage"]["prompt_tokens"] == 3 * 12
    turn = _ledger(client, answered.body["conversation_id"])
    assert _steps(turn) == [(kind, "ok") for kind in GOOD]
    extraction = turn["steps"][1]
    assert extraction["prompt"][-1] == {"role": "user", "content": ORDER}
    assert extraction["output"] == {"order_number": {"value": "4411", "quote": None}}
    assert extraction["verdict"] == {"order_number": {"status": "inferred"}}
    assert (extraction["template_id"], extraction["attempts"]) == ("icmp.data_extraction", 1)


def test_selection_and_extraction_are_asked_at_the_same_time(thinker: Thinker, client: Client) -> None:
    both = threading.Barrier(2)

    def together(then: Behaviour) -> Behaviour:
        def behave(handler: Handler) -> None:
            both.wait(5)
            then(handler)

        return behave

    kinds = ("stage_selection", "data_extraction")
    thinker.script(**GOOD | {kind: together(GOOD[kind]) for kind in kinds})
    answered = shop.write(client, ORDER)
    assert (answered.status, answered.body["data"]) == (200, {"order_number": "4411"})
    assert not both.broken
    assert len(thinker.asked("data_extraction")) == 1


def test_a_guess_that_missed_is_kept_in_the_ledger_and_never_merged(thinker: Thinker) -> None:
    client = thinker.shop(shop.ORDER_STATUS, COMPLAINT)
    gate = Gate()

    def guess(handler: Handler) -> None:
        finds(order_number="4411")(handler)
        gate.opened.set()

    thinker.script(
        stage_selection=gate.before(picks("complaint")),
        data_extraction=[guess, finds(problem="torn")],
        response_generation=says("Sorry."),
    )
    answered = shop.write(client, ORDER)
    assert (answered.status, answered.body["data"]) == (200, {"problem": "torn"})
    assert answered.body["stage"]["stage_name"] == "complaint"
    assert len(thinker.asked("data_extraction")) == 2
    steps = _ledger(client, answered.body["conversation_id"])["steps"]
    extracted = {step["outcome"]: step["stage_name"] for step in steps if step["kind"] == "data_extraction"}
    assert extracted == {"ok": "complaint", "speculative": "order_status"}


def test_a_bad_answer_is_asked_again_once(thinker: Thinker, client: Client) -> None:
    thinker.script(**GOOD | {"stage_selection": [says("order_status, I think"), GOOD["stage_selection"]]})
    answered = shop.write(client, ORDER)
    assert (answered.status, answered.body["degraded"]) == (200, False)
    step = _ledger(client, answered.body["conversation_id"])["steps"][0]
    assert (step["outcome"], step["attempts"], step["raw_outputs"][0]) == ("reasked", 2, "order_status, I think")
    assert "could not be used: it was not valid JSON" in thinker.asked("stage_selection")[1]


def test_two_bad_answers_keep_stage_and_data(thinker: Thinker, client: Client) -> None:
    user_id = str(uuid.uuid4())
    thinker.script(**GOOD)
    assert shop.write(client, ORDER, user_id).status == 200
    bad = {"stage_selection": picks("no_such_stage"), "data_extraction": says(None, refusal="I will not.")}
    thinker.script(**GOOD | bad)
    answered = shop.write(client, "And now?", user_id)
    assert (answered.status, answered.body["stage"]["stage_name"]) == (200, "order_status")
    assert answered.body["data"] == {"order_number": "4411"}
    steps = _ledger(client, answered.body["conversation_id"])["steps"]
    assert [step["outcome"] for step in steps] == ["safe_default", "safe_default", "ok"]
    assert steps[1]["verdict"]["fault"] == "it was a refusal"


@pytest.mark.parametrize("kind", GOOD)
def test_a_model_that_is_down_leaves_the_stages_own_words(thinker: Thinker, kind: str) -> None:
    client = thinker.shop(
        shop.ORDER_STATUS | {"response_generation": {"fallback_text": "Later, {{ business.business_name }}."}},
        shop.stage("other", fallback_text="Later, somewhere else."),
    )
    thinker.script(**GOOD | {kind: fails(401)})
    answered = shop.write(client, ORDER)
    assert (answered.status, answered.body["degraded"], answered.body["status"]) == (200, True, "active")
    assert answered.body["response"].startswith("Later, Shop")
    turn = _ledger(client, answered.body["conversation_id"])
    assert (turn["state"], turn["degraded"]) == ("done", True)
    assert (kind, "failed") in _steps(turn)


def test_without_such_words_the_turn_fails_and_the_message_is_kept(thinker: Thinker, client: Client) -> None:
    user_id = str(uuid.uuid4())
    thinker.script(**GOOD | {"response_generation": DOWN})
    failed = shop.write(client, ORDER, user_id)
    assert (failed.status, failed.error_code) == (503, "LLM_UNAVAILABLE")
    assert failed.headers["Retry-After"] == "7"
    [conversation] = client.get(f"/conversations/{user_id}").body
    conversation_id = conversation["conversation_id"]
    # Nothing of a turn that failed becomes the conversation's state.
    assert (conversation["data"], conversation["stage_id"], conversation["status"]) == ({}, None, "active")
    assert _spoken(client, conversation_id) == [("user", ORDER)]
    turn = _ledger(client, conversation_id)
    assert (turn["state"], turn["error_code"]) == ("failed", "LLM_UNAVAILABLE")
    assert _steps(turn)[-1] == ("response_generation", "failed")
    thinker.script(**GOOD)
    again = shop.write(client, "Hello?", user_id)
    assert (again.status, again.body["conversation_id"]) == (200, conversation_id)
    assert ORDER in thinker.asked("response_generation")[0]


def test_a_model_that_hangs_is_a_504(settings: Settings, serve: Callable[[Flask], int]) -> None:
    with shop.thinking(settings, serve, model_call_timeout_s=0.3) as thinker:
        client = thinker.shop(shop.ORDER_STATUS, shop.SMALL_TALK)
        thinker.script(stage_selection=hangs, data_extraction=hangs)
        user_id = str(uuid.uuid4())
        failed = shop.write(client, ORDER, user_id)
        assert (failed.status, failed.error_code) == (504, "LLM_TIMEOUT")
        assert int(failed.headers["Retry-After"]) > 0
        [conversation] = client.get(f"/conversations/{user_id}").body
        assert _ledger(client, conversation["conversation_id"])["error_code"] == "LLM_TIMEOUT"


@pytest.mark.parametrize("kind", GOOD)
def test_no_connection_is_held_while_the_model_thinks(
    thinker: Thinker, client: Client, sql: Callable[..., list[tuple[Any, ...]]], kind: str
) -> None:
    with _while_thinking(thinker, client, kind) as slow:
        # The app has one connection: a turn that kept it would leave none for this.
        assert client.get("/api/v1/stages").status == 200
        question = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'icmp' AND xact_start IS NOT NULL"
        assert sql(question) == [(0,)]
    assert slow.answer.result().status == 200


@pytest.mark.parametrize(("kind", "steps"), [("stage_selection", 2), ("response_generation", 3)])
def test_staff_who_take_over_meanwhile_suppress_the_reply(
    thinker: Thinker, client: Client, kind: str, steps: int
) -> None:
    with _while_thinking(thinker, client, kind) as slow:
        path = f"/api/v1/conversations/{slow.conversation_id}"
        assert client.patch(path, {"status": "paused"}).status == 200
    answered = slow.answer.result()
    assert (answered.status, answered.body["response"], answered.body["status"]) == (202, None, "paused")
    # What was paid for is told, and nothing more is asked.
    assert (answered.body["usage"]["prompt_tokens"], answered.body["model"]) == (12 * steps, "m-1")
    assert len(thinker.asked("response_generation")) == steps - 2
    assert _spoken(client, slow.conversation_id) == [("user", ORDER)]
    turn = _ledger(client, slow.conversation_id)
    assert (turn["state"], len(turn["steps"])) == ("done", steps)
    assert client.get(path).body["status"] == "paused"


@pytest.mark.parametrize("kind", ["stage_selection", "response_generation"])
def test_a_conversation_that_is_completed_meanwhile_takes_no_reply(thinker: Thinker, client: Client, kind: str) -> None:
    with _while_thinking(thinker, client, kind) as slow:
        path = f"/api/v1/conversations/{slow.conversation_id}"
        assert client.patch(path, {"status": "completed"}).status == 200
    answered = slow.answer.result()
    assert (answered.status, answered.error_code) == (409, "CONVERSATION_COMPLETED")
    assert _spoken(client, slow.conversation_id) == [("user", ORDER)]
    turn = _ledger(client, slow.conversation_id)
    assert (turn["state"], turn["error_code"]) == ("failed", "CONVERSATION_COMPLETED")


def test_a_stage_deleted_meanwhile_leaves_the_conversation_without_one(thinker: Thinker, client: Client) -> None:
    stages = {each["stage_name"]: each["stage_id"] for each in client.get("/api/v1/stages").body}
    with _while_thinking(thinker, client) as slow:
        assert client.delete(f"/api/v1/stages/{stages['order_status']}").status == 204
    answered = slow.answer.result()
    assert (answered.status, answered.body["response"]) == (200, "It is on its way.")
    conversation = client.get(f"/api/v1/conversations/{slow.conversation_id}").body
    assert (conversation["stage_id"], conversation["data"]) == (None, {"order_number": "4411"})
    assert _ledger(client, slow.conversation_id)["stage_name"] == "order_status"


def test_a_business_deleted_meanwhile_is_not_found(thinker: Thinker, client: Client) -> None:
    with _while_thinking(thinker, client) as slow:
        assert thinker.master.delete(f"/api/v1/businesses/{client.business_id}").status == 204
    answered = slow.answer.result()
    assert (answered.status, answered.error_code) == (404, "NOT_FOUND")


def test_a_fault_of_ours_ends_the_turn_after_five_attempts_and_tells_nothing(
    thinker: Thinker, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []

    def broken(request: Request) -> None:
        if request.kind == "stage_selection":
            attempts.append(request)
        raise RuntimeError("the plans of the harbour")

    user_id = str(uuid.uuid4())
    monkeypatch.setattr(thinker.app.extensions["icmp"].model, "ask", broken)
    failed = shop.write(client, ORDER, user_id)
    assert (failed.status, failed.error_code) == (500, "SERVER_ERROR")
    assert "harbour" not in str(failed.body)
    assert len(attempts) == 5
    [conversation] = client.get(f"/conversations/{user_id}").body
    turn = _ledger(client, conversation["conversation_id"])
    assert (turn["state"], turn["error_code"]) == ("failed", "SERVER_ERROR")
    assert _spoken(client, conversation["conversation_id"]) == [("user", ORDER)]


def test_a_number_beyond_all_bounds_in_the_models_answers_is_no_fault_of_ours(thinker: Thinker, client: Client) -> None:
    endless = {"reason": "the customer wanted it so", "stage": "order_status", "confidence": 10**400}
    thinker.script(**GOOD | {"stage_selection": says(endless)})
    answered = shop.write(client, ORDER)
    assert (answered.status, answered.body.get("response")) == (200, "It is on its way.")
    assert _steps(_ledger(client, answered.body["conversation_id"]))[0] == ("stage_selection", "safe_default")


@pytest.mark.parametrize(
    "oddity", [{"model": "m\0"}, {"usage": {"prompt_tokens": 2**31 - 1, "completion_tokens": 1}}], ids=["name", "usage"]
)
def test_what_a_server_says_of_itself_cannot_keep_a_turn_from_being_stored(
    thinker: Thinker, client: Client, oddity: dict[str, Any]
) -> None:
    odd = [says("", **oddity), says("It is on its way.", **oddity)] * 5
    thinker.script(**GOOD | {"response_generation": odd})
    answered = shop.write(client, ORDER)
    assert (answered.status, answered.body.get("response")) == (200, "It is on its way.")
    assert len(thinker.asked("response_generation")) == 2
