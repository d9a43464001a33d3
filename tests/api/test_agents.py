"""Agents: their life, the one default, who speaks in which stage, and people who take over."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask

from api.settings import Settings
from tests.api import shop
from tests.api.shop import Thinker
from tests.conftest import Answer, Client

LIST = "/api/v1/agents"


@pytest.fixture(scope="module")
def thinker(settings: Settings, serve: Callable[[Flask], int]) -> Iterator[Thinker]:
    with shop.thinking(settings, serve) as made:
        yield made


def _agent(client: Client, name: str, **fields: Any) -> dict[str, Any]:
    created = client.post(LIST, {"agent_name": name, **fields})
    assert created.status == 201, created.body
    body: dict[str, Any] = created.body
    return body


def _without_id(answer: Answer) -> dict[str, Any]:
    return {name: value for name, value in answer.body.items() if name != "request_id"}


def test_an_agent_is_made_read_changed_and_deleted(alice: Client) -> None:
    created = alice.post(LIST, {"agent_name": "Robin", "model_settings": {"temperature": 0.3}})
    assert (created.status, created.body["agent_type"], created.body["is_default"]) == (201, "ai", False)
    path = created.headers["Location"]
    assert alice.get(path).body == created.body
    changed = alice.patch(path, {"instructions": "Be warm.", "model_settings": {"seed": 7}})
    assert (changed.body["instructions"], changed.body["model_settings"]) == ("Be warm.", {"seed": 7})
    assert changed.body["agent_name"] == "Robin"
    other = _agent(alice, "Kim")
    assert [each["agent_id"] for each in alice.get(LIST).body] == [other["agent_id"], created.body["agent_id"]]
    business = alice.get(f"/api/v1/businesses/{alice.business_id}").body
    assert business["agent_list"] == [created.body["agent_id"], other["agent_id"]]
    assert (alice.delete(path).status, alice.delete(path).status, alice.get(path).status) == (204, 404, 404)


def test_a_new_default_takes_the_old_ones_place_also_when_many_ask_at_once(alice: Client) -> None:
    first = _agent(alice, "Robin", is_default=True)
    second = _agent(alice, "Kim", is_default=True)
    defaults = [each["agent_id"] for each in alice.get(LIST).body if each["is_default"]]
    assert defaults == [second["agent_id"]]
    paths = [f"{LIST}/{each['agent_id']}" for each in (first, second)] * 10
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda path: alice.patch(path, {"is_default": True}), paths))
    assert {answer.status for answer in answers} == {200}
    assert [each["is_default"] for each in alice.get(LIST).body].count(True) == 1
    assert alice.patch(f"{LIST}/{uuid.uuid4()}", {"is_default": True}).status == 404
    assert [each["is_default"] for each in alice.get(LIST).body].count(True) == 1


def test_names_are_unique_and_fields_are_checked(alice: Client) -> None:
    _agent(alice, "Robin")
    again = alice.post(LIST, {"agent_name": "Robin"})
    assert (again.status, again.error_code, "agent_name" in again.body["details"]) == (409, "CONFLICT", True)
    for wrong in (
        {},
        {"agent_name": " "},
        {"agent_name": "A", "agent_type": "robot"},
        {"agent_name": "A", "model_settings": {"colour": 1}},
        {"agent_name": "A", "instructions": "x" * 16_385},
        {"agent_name": "A", "agent_id": str(uuid.uuid4())},
    ):
        refused = alice.post(LIST, wrong)
        assert (refused.status, refused.error_code) == (400, "INVALID_REQUEST"), wrong


def test_charlie_finds_no_agent_of_alices(alice: Client, charlie: Client) -> None:
    theirs, missing = f"{LIST}/{_agent(alice, 'Robin', is_default=True)['agent_id']}", f"{LIST}/{uuid.uuid4()}"
    for ask in (charlie.get, charlie.delete, lambda path: charlie.patch(path, {"is_default": True})):
        answers = [ask(theirs), ask(missing)]
        assert [answer.status for answer in answers] == [404, 404]
        assert _without_id(answers[0]) == _without_id(answers[1])
    assert charlie.get(LIST).body == []
    assert _agent(charlie, "Robin", is_default=True)["is_default"] is True
    assert alice.get(theirs).body["is_default"] is True
    stage = charlie.post("/api/v1/stages", shop.stage("mine", agent_id=theirs.rpartition("/")[2]))
    assert (stage.status, "agent_id" in stage.body["details"]) == (400, True)


def test_choosing_a_stage_chooses_who_speaks_and_how(thinker: Thinker) -> None:
    client = thinker.shop()
    default = _agent(client, "Robin", instructions="Speak like Robin.", is_default=True)
    expert = _agent(client, "Kim", instructions="Sign as Kim.", model_settings={"model": "m-kim", "temperature": 0.9})
    shop.furnish(client, shop.stage("small_talk"), shop.stage("repairs", agent_id=expert["agent_id"]))
    thinker.script(
        stage_selection=[shop.picks("small_talk"), shop.picks("repairs")],
        response_generation=shop.says("At your service."),
    )
    customer = str(uuid.uuid4())
    greeted = shop.write(client, "Hello", customer)
    assert greeted.body["agent_id"] == default["agent_id"]
    helped = shop.write(client, "My lamp is broken", customer)
    assert helped.body["conversation_id"] == greeted.body["conversation_id"]
    assert (helped.body["agent_id"], helped.body["stage"]["stage_name"]) == (expert["agent_id"], "repairs")
    robin, kim = thinker.asked("response_generation")
    assert "Speak like Robin." in robin
    assert "Sign as Kim." in kim
    assert "Speak like Robin." not in kim
    selection, reply = thinker.server.bodies[-2:]
    assert (selection["model"], "temperature" in selection) == ("m-1", False)
    assert (reply["model"], reply["temperature"]) == ("m-kim", 0.9)
    turn = client.get(f"/api/v1/turns/{helped.body['turn_id']}").body
    spoken = next(step for step in turn["steps"] if step["kind"] == "response_generation")
    assert turn["agent_id"] == expert["agent_id"]
    assert "Sign as Kim." in str(spoken["prompt"])
    conversation = client.get(f"/api/v1/conversations/{helped.body['conversation_id']}").body
    assert conversation["agent_id"] == expert["agent_id"]


def test_people_take_over_answer_and_hand_back(thinker: Thinker) -> None:
    client = thinker.shop()
    robin = _agent(client, "Robin", is_default=True)
    team = _agent(client, "Complaints team", agent_type="human")
    shop.furnish(
        client,
        shop.stage("small_talk", agent_id=robin["agent_id"]),
        shop.stage("complaint", agent_id=team["agent_id"]),
    )
    thinker.script(
        stage_selection=[shop.picks("complaint"), shop.picks("small_talk")],
        response_generation=[shop.says("Our team takes over."), shop.says("You are welcome.")],
    )
    customer = str(uuid.uuid4())
    told = shop.write(client, "This is a scandal", customer)
    assert (told.body["status"], told.body["agent_id"]) == ("paused", team["agent_id"])
    conversation_id = told.body["conversation_id"]
    path, asked = f"/api/v1/conversations/{conversation_id}", len(thinker.server.bodies)
    waiting = shop.write(client, "Hello?", customer, conversation_id=conversation_id)
    assert (waiting.status, waiting.body["response"], len(thinker.server.bodies)) == (202, None, asked)
    assert client.post(f"{path}/messages", {"message": "We refund you 5 pounds."}).status == 201
    assert client.patch(path, {"status": "active"}).status == 200
    thanked = shop.write(client, "Thank you", customer, conversation_id=conversation_id)
    assert (thanked.body["response"], thanked.body["status"]) == ("You are welcome.", "active")
    assert thanked.body["agent_id"] == robin["agent_id"]
    assert "We refund you 5 pounds." in thinker.asked("response_generation")[-1]
    assert "Hello?" in thinker.asked("response_generation")[-1]


def test_deleting_an_agent_leaves_its_stages_and_conversations_without_one(alice: Client) -> None:
    agent_id = _agent(alice, "Robin")["agent_id"]
    [stage_id] = shop.furnish(alice, shop.stage("small_talk", agent_id=agent_id))
    customer = str(uuid.uuid4())
    conversation_id = shop.write(alice, "Hello", customer).body["conversation_id"]
    assert alice.get(f"/api/v1/conversations/{conversation_id}").body["agent_id"] == agent_id
    assert alice.delete(f"{LIST}/{agent_id}").status == 204
    assert alice.get(f"/api/v1/stages/{stage_id}").body["agent_id"] is None
    assert alice.get(f"/api/v1/conversations/{conversation_id}").body["agent_id"] is None
    again = shop.write(alice, "Hello again", customer)
    assert (again.status, again.body["conversation_id"], again.body["agent_id"]) == (200, conversation_id, None)
