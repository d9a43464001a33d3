"""Who may call what: every route, by everybody, against one table that the documentation repeats."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

import auth
from api.settings import Settings
from tests.api import people
from tests.conftest import MASTER_KEY, Client, onboard

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "roles.md"
COLUMNS = ("anybody", "viewer", "operator", "admin", "owner", "business key", "master key")
ROLES = ("viewer", "operator", "admin", "owner")
ANYBODY = set(COLUMNS)
MASTER = {"master key"}
OWNER = {"owner", "business key", *MASTER}
ADMINS = {"admin", *OWNER}
DESK = {"operator", *ADMINS}
AUDIT = {"viewer", *ADMINS}
STAFF = {"viewer", *DESK}
# The promise, written by hand: what is not here may not exist.
EXPECTED: dict[str, set[str]] = {
    "GET /": ANYBODY,
    "GET /healthz": ANYBODY,
    "GET /readyz": ANYBODY,
    "GET /openapi.json": ANYBODY,
    "GET /metrics": MASTER,
    "POST /api/save-config": ANYBODY,
    "POST /api/clear-config": ANYBODY,
    "POST /api/v1/auth/login": ANYBODY,
    "POST /api/v1/auth/logout": ANYBODY,
    "GET /api/v1/auth/me": STAFF,
    "POST /api/v1/businesses": MASTER,
    "GET /api/v1/businesses": MASTER,
    "GET /api/v1/businesses/{business_id}": STAFF,
    "PATCH /api/v1/businesses/{business_id}": ADMINS,
    "DELETE /api/v1/businesses/{business_id}": MASTER,
    "POST /api/v1/businesses/{business_id}/api-keys": OWNER,
    "GET /api/v1/businesses/{business_id}/api-keys": OWNER,
    "DELETE /api/v1/businesses/{business_id}/api-keys/{key_id}": OWNER,
    "POST /api/v1/users": ADMINS,
    "GET /api/v1/users": STAFF,
    "GET /api/v1/users/{user_id}": STAFF,
    "PATCH /api/v1/users/{user_id}": ADMINS,
    "DELETE /api/v1/users/{user_id}": ADMINS,
    "POST /api/v1/agents": ADMINS,
    "GET /api/v1/agents": STAFF,
    "GET /api/v1/agents/{agent_id}": STAFF,
    "PATCH /api/v1/agents/{agent_id}": ADMINS,
    "DELETE /api/v1/agents/{agent_id}": ADMINS,
    "POST /api/v1/templates": ADMINS,
    "GET /api/v1/templates": STAFF,
    "GET /api/v1/templates/{template_id}": STAFF,
    "PATCH /api/v1/templates/{template_id}": ADMINS,
    "DELETE /api/v1/templates/{template_id}": ADMINS,
    "POST /api/v1/stages": ADMINS,
    "GET /api/v1/stages": STAFF,
    "GET /api/v1/stages/{stage_id}": STAFF,
    "PATCH /api/v1/stages/{stage_id}": ADMINS,
    "DELETE /api/v1/stages/{stage_id}": ADMINS,
    "POST /api/v1/stages/{stage_id}/try": ADMINS,
    "POST /stages": ADMINS,
    "POST /businesses": MASTER,
    "GET /api/v1/config": AUDIT,
    "PUT /api/v1/config": ADMINS,
    "GET /api/v1/audit": AUDIT,
    "POST /api/v1/messages": ADMINS,
    "POST /message": ADMINS,
    "GET /api/v1/messages/{message_id}": STAFF,
    "GET /api/v1/conversations": STAFF,
    "GET /conversations/{user_id}": STAFF,
    "GET /api/v1/conversations/{conversation_id}": STAFF,
    "PATCH /api/v1/conversations/{conversation_id}": DESK,
    "GET /api/v1/conversations/{conversation_id}/messages": STAFF,
    "POST /api/v1/conversations/{conversation_id}/messages": DESK,
    "GET /api/v1/conversations/{conversation_id}/turns": STAFF,
    "GET /api/v1/turns/{turn_id}": STAFF,
    "POST /api/v1/events": ANYBODY,
    "GET /api/v1/events": AUDIT,
    "GET /api/v1/analytics/summary": AUDIT,
    "GET /api/v1/analytics/stages": AUDIT,
    "GET /api/v1/analytics/usage": AUDIT,
    "POST /api/v1/products": ADMINS,
    "GET /api/v1/products": STAFF,
    "GET /api/v1/products/{product_id}": STAFF,
    "PATCH /api/v1/products/{product_id}": ADMINS,
    "DELETE /api/v1/products/{product_id}": ADMINS,
    "POST /api/v1/services": ADMINS,
    "GET /api/v1/services": STAFF,
    "GET /api/v1/services/{service_id}": STAFF,
    "PATCH /api/v1/services/{service_id}": ADMINS,
    "DELETE /api/v1/services/{service_id}": ADMINS,
    "POST /api/v1/orders": DESK,
    "GET /api/v1/orders": STAFF,
    "GET /api/v1/orders/{order_id}": STAFF,
    "PATCH /api/v1/orders/{order_id}": DESK,
    "DELETE /api/v1/orders/{order_id}": DESK,
}
INTRODUCTION = """# Who may call what

A person's role is that of the membership in the business of the session; customers cannot log in. A business key may do
everything of its own business but deleting it. The master key may do everything and names the business. Whatever the
role: another business's id is a 403, another business's object a 404 like one that does not exist.

Beyond the table: everybody who is logged in changes the own login, with `PATCH /api/v1/users/{user_id}` and
`login_email`, `password` and `current_password`; nobody else but the master does. Only owners, business keys and the
master make, change and remove owners. A business gives a login only to a person who has none and whom no other business
knows. Forgetting a user (`DELETE`) deletes their conversations with the business; orders stay, without the name.

"""


def _written() -> str:
    lines = [f"| route | {' | '.join(COLUMNS)} |", f"|---|{'---|' * len(COLUMNS)}"]
    for route, allowed in EXPECTED.items():
        lines.append(f"| `{route}` | {' | '.join('yes' if column in allowed else '–' for column in COLUMNS)} |")
    return INTRODUCTION + "\n".join(lines) + "\n"


def _routes(app: Flask) -> Iterator[str]:
    for rule in app.url_map.iter_rules():
        if not rule.endpoint.startswith("swagger_ui."):
            for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
                yield f"{method} {rule.rule.replace('<', '{').replace('>', '}')}"


@pytest.fixture(scope="module")
def app(settings: Settings) -> Flask:
    return people.generous(settings)


@pytest.fixture(scope="module")
def cast(app: Flask, serve: Callable[[Flask], int]) -> dict[str, Client]:
    """One caller for each column, all of the same business but for the master and anybody."""
    master = Client(serve(app), MASTER_KEY)
    business = onboard(master, "Alice's Books")
    staff = {role: people.hire(business, role).client(business.port) for role in ROLES}
    named = replace(master, business_id=business.business_id)
    return {"anybody": Client(master.port), **staff, "business key": business, "master key": named}


def _is_let_in(caller: Client, route: str, business_id: str) -> bool:
    """Whether a request with random ids and a body that changes nothing gets past the door."""
    method, path = route.split(" ")
    path = path.replace("{business_id}", business_id)
    path = re.sub(r"\{\w+\}", lambda _: str(uuid.uuid4()), path)
    if business_id not in path:
        path += f"?business_id={business_id}"
    body: Any = None if method in {"GET", "DELETE"} else {"name": "Kim"} if "/users/" in path else {"no_such": 1}
    answer = caller.call(method, path, raw=None if body is None else json.dumps(body).encode())
    assert answer.status < 500 or "unavailable" in str(answer.body), (route, answer.body)
    return answer.status not in {401, 403}


def _is_safe(route: str) -> bool:
    """Deleting the business would end the test for everybody after."""
    return route != "DELETE /api/v1/businesses/{business_id}"


def test_every_route_is_in_the_table_and_nothing_else(app: Flask) -> None:
    assert sorted(_routes(app)) == sorted(EXPECTED)


def test_every_room_with_a_guard_has_its_rights(app: Flask) -> None:
    rooms = {
        getattr(view, "room", view.__module__.rpartition(".")[2])
        for view in app.view_functions.values()
        if getattr(view, "access", "").startswith("business")
    }
    assert rooms | {"users"} == set(auth.RIGHTS)


@pytest.mark.parametrize("column", COLUMNS)
def test_everybody_gets_in_where_the_table_says_so_and_nowhere_else(column: str, cast: dict[str, Client]) -> None:
    caller, own = cast[column], cast["business key"].business_id
    # Logging out ends the session that the others need.
    routes = sorted(filter(_is_safe, EXPECTED), key=lambda route: route.endswith("/logout"))
    let_in = {route for route in routes if _is_let_in(caller, route, own)}
    if column in ROLES:
        assert caller.get("/api/v1/auth/me").status == 401
    assert let_in == {route for route, allowed in EXPECTED.items() if _is_safe(route) and column in allowed}


def test_only_the_master_deletes_a_business(cast: dict[str, Client]) -> None:
    route = "DELETE /api/v1/businesses/{business_id}"
    business = onboard(cast["master key"], "Short-lived")
    for column in COLUMNS:
        caller = cast[column]
        if column in ROLES:
            caller = people.hire(business, column).client(business.port)
        elif column == "business key":
            caller = business
        assert _is_let_in(caller, route, business.business_id) is (column in EXPECTED[route]), column


@pytest.mark.parametrize("column", [*ROLES, "business key"])
def test_nobody_gets_into_another_business(column: str, cast: dict[str, Client]) -> None:
    business, other = (onboard(cast["master key"], name) for name in ("Own", "Other"))
    caller = business if column == "business key" else people.hire(business, column).client(business.port)
    guarded = [route for route, allowed in EXPECTED.items() if allowed != ANYBODY]
    assert [route for route in guarded if _is_let_in(caller, route, other.business_id)] == []


def test_a_room_that_no_table_names_is_closed_to_people_and_open_to_keys() -> None:
    for role in ROLES:
        for change in (False, True):
            assert not auth.Caller("user", "b", role=role).may("novelties", change=change)
    assert not auth.Caller("user", "b", role="customer").may("conversations", change=False)
    assert auth.Caller("business", "b", key_id="k").may("novelties", change=True)


def test_the_documentation_is_the_table() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == _written()
