"""The names that a stage makes up for itself, in what it looks up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask

from api.settings import Settings
from tests.api import shop
from tests.api.shop import Thinker
from tests.nlp import web_server
from tests.nlp.web_server import Server


@pytest.fixture
def web() -> Iterator[Server]:
    with web_server.running() as server:
        yield server


@pytest.fixture
def thinker(settings: Settings, serve: Callable[[Flask], int], web: Server) -> Iterator[Thinker]:
    with shop.thinking(settings, serve, api_call_allowed_hosts=frozenset({web.host})) as made:
        yield made


def test_a_look_up_uses_the_names_of_all_sections_the_replys_first(thinker: Thinker, web: Server) -> None:
    query = {"cart": "{{ cart }}", "city": "{{ city }}"}
    stage: dict[str, Any] = shop.stage("carts") | {
        "data_retrieval": {"method": "api_call", "config": {"url": f"http://{web.host}/x", "query": query}},
        "stage_selection": {"context_data_fields": {"cart": "metadata.cart", "city": "metadata.cart"}},
        "response_generation": {"context_data_fields": {"city": "user.profile.city"}},
    }
    client = thinker.shop(stage)
    user_id = client.post("/api/v1/users", {"profile": {"city": "Kiel"}}).body["user_id"]
    web.tells({})
    thinker.script(response_generation=shop.says("It is on its way."))
    body = {"user_id": user_id, "message": "Where is my cart?", "metadata": {"cart": "c 7"}}
    assert client.post("/api/v1/messages", body).status == 200
    assert web.seen[-1].path == "/x?cart=c%207&city=Kiel"
    path = f"/api/v1/stages/{client.get('/api/v1/stages').body[0]['stage_id']}"
    refused = client.patch(path, {"stage_selection": {}})  # which would take a name away
    assert (refused.status, "cart" in refused.body["details"]) == (400, True)
    assert client.patch(path, {"stage_selection": stage["stage_selection"]}).status == 200
