"""Several who change one set-up at once: one after the other, and no stage is left with what another one took away."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.api import shop
from tests.conftest import Answer, Client

TRIES = 12
STAGES, TEMPLATES, AGENTS = "/api/v1/stages", "/api/v1/templates", "/api/v1/agents"


def _at_once(*calls: Callable[[], Answer]) -> list[Answer]:
    together = threading.Barrier(len(calls))

    def made(call: Callable[[], Answer]) -> Answer:
        together.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(made, calls))


def _template(client: Client, template_id: str) -> str:
    body = {"template_id": template_id, "kind": "response_generation", "text": "Answer."}
    assert client.post(TEMPLATES, body).status == 201
    return f"{TEMPLATES}/{template_id}"


def _stage(template_id: str) -> dict[str, object]:
    return shop.stage(f"s{uuid.uuid4().hex}") | {"response_generation": {"prompt": {"template_id": template_id}}}


@pytest.mark.parametrize("is_global", [False, True])
def test_a_stage_never_names_a_template_that_goes_at_that_moment(
    master: Client, alice: Client, is_global: bool
) -> None:
    owner = master if is_global else alice
    outcomes = set()
    for number in range(TRIES):
        stage, path = _stage(f"t{number}"), _template(owner, f"t{number}")
        saved, deleted = _at_once(partial(alice.post, STAGES, stage), partial(owner.delete, path))
        outcomes.add((saved.status, deleted.status))
    assert outcomes <= {(201, 409), (400, 204)}, outcomes


def test_a_stage_never_lacks_a_name_that_its_template_takes_at_that_moment(alice: Client) -> None:
    outcomes = set()
    for number in range(TRIES):
        stage, path = _stage(f"t{number}"), _template(alice, f"t{number}")
        change = {"text": "{{ mood }}", "input_variables": ["mood"]}
        saved, changed = _at_once(partial(alice.post, STAGES, stage), partial(alice.patch, path, change))
        outcomes.add((saved.status, changed.status))
    assert outcomes <= {(201, 400), (400, 200)}, outcomes


def test_changes_of_agents_and_stages_wait_for_each_other(alice: Client) -> None:
    first, second = (
        alice.post(AGENTS, {"agent_name": name, "is_default": is_default}).body["agent_id"]
        for name, is_default in (("A", True), ("B", False))
    )
    stage_id = alice.post(STAGES, shop.stage("one") | {"agent_id": first}).body["stage_id"]
    for number in range(TRIES):
        answers = _at_once(
            partial(alice.patch, f"{AGENTS}/{second}", {"is_default": True}),
            partial(alice.patch, f"{AGENTS}/{first}", {"is_default": True}),
            partial(alice.patch, f"{STAGES}/{stage_id}", {"stage_name": f"n{number}"}),
        )
        assert [answer.status for answer in answers] == [200] * 3, [answer.body for answer in answers]
