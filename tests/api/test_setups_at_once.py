"""Several who change one set-up at once: one after the other, and no stage is left with what another one took away."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from functools import partial

import pytest

import db
from db import config
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


def test_changes_wait_for_whoever_is_changing_the_set_up(alice: Client, database_url: str) -> None:
    agent_id = alice.post(AGENTS, {"agent_name": "A"}).body["agent_id"]
    stage_id = alice.post(STAGES, shop.stage("one") | {"agent_id": agent_id}).body["stage_id"]
    path = _template(alice, "own.reply")
    changes = [
        partial(alice.patch, f"{AGENTS}/{agent_id}", {"is_default": True}),
        partial(alice.patch, f"{STAGES}/{stage_id}", {"stage_name": "another"}),
        partial(alice.patch, path, {"text": "Answer well."}),
        partial(alice.post, STAGES, _stage("own.reply")),
    ]
    database = db.Database(database_url)
    with ThreadPoolExecutor(len(changes)) as threads:
        with database.transaction(alice.business_id) as conn:
            config.lock(conn, alice.business_id)
            answers = [threads.submit(change) for change in changes]
            assert not wait(answers, timeout=0.5, return_when=FIRST_COMPLETED).done
        assert [answer.result().status for answer in answers] == [200, 200, 200, 201]
    database.close()
