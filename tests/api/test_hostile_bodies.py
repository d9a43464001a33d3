"""Every body that any route takes, spoilt at every place of it: one clear error each time, never a fault of ours."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask

from api.settings import Settings
from tests.api import people, recipes, tenants
from tests.api.tenants import Tenant
from tests.conftest import MASTER_KEY, Answer, Client

MARK = '"\ue000"'  # stands for what is put in as it is
# What a parser or the database could stumble over, as it is written on the wire.
POISON = {
    "NUL": rb'"a\u0000b"',
    "raw NUL": b'"a\x00b"',
    "lone surrogate": rb'"\ud83d"',
    "surrogates the wrong way round": rb'"\ude00\ud83d"',
    "raw surrogate": b'"\xed\xa0\xbd"',
    "overlong slash": b'"\xc0\xaf"',
    "endless number": b"1e999",
    "number of 5000 digits": b"9" * 5000,
    "not a number": b"NaN",
    "depth of 10000": b"[" * 10_000 + b"]" * 10_000,
    "one name twice": b'{"a": 1, "a": 2}',
    "raw line break": b'"a\nb"',
    "nothing": b"",
}
OTHER_KINDS: list[Any] = [None, True, -1, 0.5, "", "\x7f\u202e\ufeff", [], [[]], {}, {"a": None}, "x" * 40_000]


@pytest.fixture(scope="module")
def app(settings: Settings) -> Flask:
    return people.generous(settings)


@pytest.fixture(scope="module")
def tenant(app: Flask, serve: Callable[[Flask], int]) -> Tenant:
    return tenants.furnished(Client(serve(app), MASTER_KEY))


@pytest.fixture(scope="module")
def routes(app: Flask, tenant: Tenant) -> list[tuple[str, str, Any]]:
    """Method, path and a valid body of every route that takes one; what takes away last."""
    found = []
    own = tenant.ids | {"key": str(tenant.client.key), "unique": uuid.uuid4().hex}
    for rule in app.url_map.iter_rules():
        contract = getattr(app.view_functions[rule.endpoint], "contract", None)
        if contract is None or contract.takes is None:
            continue
        path = rule.rule.replace("<", "{").replace(">", "}")
        for name, value in tenant.ids.items():
            path = path.replace(f"{{{name}}}", value)
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            found += [(method, path, recipes.filled(recipe, own)) for recipe in recipes.BODIES[contract.takes]]
    assert len(found) > 25
    return sorted(found, key=lambda each: (each[0] == "PUT", each[1]))


def _caller(tenant: Tenant, path: str) -> Client:
    """Who gets past the door: making businesses is the master's."""
    return Client(tenant.client.port, MASTER_KEY) if path.endswith("/businesses") else tenant.client


def _places(value: Any, *way: Any) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside, the whole included."""
    yield way
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _places(item, *way, key)


def _with(value: Any, way: tuple[Any, ...], other: Any) -> Any:
    if not way:
        return other
    changed = dict(value) if isinstance(value, dict) else list(value)
    changed[way[0]] = _with(value[way[0]], way[1:], other)
    return changed


def _is_clear(answer: Answer) -> bool:
    return bool(answer.error_code) and all(isinstance(each, str) for each in answer.body.values())


@pytest.mark.parametrize("poison", POISON)
def test_poison_in_any_body_is_a_400(poison: str, routes: list[tuple[str, str, Any]], tenant: Tenant) -> None:
    for method, path, body in routes:
        way = list(_places(body))[-1]  # the innermost of the last field: everything before is right
        raw = json.dumps(_with(body, way, "\ue000"), ensure_ascii=False).encode()
        spoilt = raw.replace(MARK.encode(), POISON[poison])
        assert spoilt != raw
        answer = _caller(tenant, path).call(method, path, raw=spoilt)
        assert (answer.status, answer.error_code) == (400, "INVALID_REQUEST"), (method, path, answer.body)
        assert _is_clear(answer)
        assert "\x00" not in json.dumps(answer.body, ensure_ascii=False)


def test_a_value_of_another_kind_at_any_place_is_never_a_fault(
    routes: list[tuple[str, str, Any]], tenant: Tenant
) -> None:
    refused = 0
    for method, path, body in routes:
        for number, way in enumerate(_places(body)):
            # Not all kinds at all places: three each, in turn.
            for kind in range(3):
                other = OTHER_KINDS[(number * 3 + kind) % len(OTHER_KINDS)]
                answer = _caller(tenant, path).call(method, path, _with(body, way, other))
                assert answer.status < 500, (method, path, way, other, answer.body)
                assert answer.status < 400 or _is_clear(answer)
                refused += answer.status == 400
    assert refused > 200


def test_ten_mebibytes_to_any_route_are_a_413(routes: list[tuple[str, str, Any]], tenant: Tenant) -> None:
    for method, path, _ in routes:
        answer = _refused_early(_caller(tenant, path), method, path)
        assert answer in {413, None}, (method, path)


def _refused_early(caller: Client, method: str, path: str) -> int | None:
    """The status of the refusal; None when the server hung up on the rest of the body before we could read it."""
    try:
        return caller.call(method, path, raw=b" " * (10 * 2**20)).status
    except ConnectionError:
        return None


def test_names_that_python_and_javascript_give_a_meaning_are_plain_names(tenant: Tenant) -> None:
    attributes = {"__proto__": {"admin": True}, "constructor": {"prototype": 1}, "__class__": "x", "$where": "1"}
    product = {"name": "{0.__class__} %s %(a)s ${a} {{a}}", "attributes": attributes}
    created = tenant.client.post("/api/v1/products", product)
    assert (created.status, created.body["attributes"]) == (201, attributes)
    assert created.body["name"] == product["name"]
    assert tenant.client.post("/api/v1/products", {"name": "x", "__proto__": {"active": True}}).status == 400
