"""Two tenants on every route: whatever Charlie sends, he meets nothing of Alice's and changes nothing of hers."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
from flask import Flask
from werkzeug.routing import Rule

from api.contract import Contract
from api.settings import Settings
from tests.api import people, recipes, tenants
from tests.api.tenants import Tenant
from tests.conftest import MASTER_KEY, Answer, Client

Sql = Callable[..., list[tuple[Any, ...]]]
TENANT_TABLES = """
    SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
      AND a.attname = 'business_id' AND NOT a.attisdropped ORDER BY 1
"""
# Anybody may send events to any business: that is what the route is for.
TAKES_ANY_BUSINESS = {"POST /api/v1/events"}
# A set-up is put in place of all others' traces, so it is compared first, and as a dry run.
ORDER = ("GET", "PUT", "POST", "PATCH", "DELETE")
ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
# What differs between two answers of the same kind: times, measures, keys and numbers that are made anew.
NEWS = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+(?:Z|\+00:00)|\d+\.\d+|icmp_\w+|\"\d{8}\"|new[-.][0-9a-f]{32}")
HEADERS = {"Content-Type", "WWW-Authenticate", "Allow", "Cache-Control", "Retry-After", "Idempotent-Replayed"}


@dataclass(frozen=True)
class Route:
    """A method on a rule, with what it takes."""

    method: str
    rule: Rule
    contract: Contract

    @property
    def name(self) -> str:
        """As the documentation writes it."""
        return f"{self.method} {self.rule.rule.replace('<', '{').replace('>', '}')}"

    def path(self, ids: Mapping[str, str], **query: str) -> str:
        """With these ids, and these parameters."""
        path = re.sub(r"<(\w+)>", lambda found: quote(ids[found[1]], safe=""), self.rule.rule)
        asked = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())
        return f"{path}?{asked}" if asked else path

    def bodies(self) -> list[Any]:
        """The recipes for what it takes; fails when there is none."""
        return [None] if self.contract.takes is None else recipes.BODIES[self.contract.takes]


@dataclass(frozen=True)
class Cast:
    """Who owns what, and as whom Charlie calls."""

    alice: Tenant
    charlie: Tenant
    caller: Client


@pytest.fixture(scope="module")
def app(settings: Settings) -> Flask:
    return people.generous(settings)


@pytest.fixture(scope="module")
def app_port(app: Flask, serve: Callable[[Flask], int]) -> int:
    return serve(app)


@pytest.fixture(params=["key", "person"])
def cast(app_port: int, request: pytest.FixtureRequest) -> Cast:
    """Alice and Charlie with everything; Charlie calls by his key, or as a person who has logged in."""
    master = Client(app_port, MASTER_KEY)
    alice, charlie = tenants.furnished(master, "alice"), tenants.furnished(master, "charlie")
    tenants.hired(alice)
    return Cast(alice, charlie, charlie.client if request.param == "key" else tenants.hired(charlie))


@pytest.fixture(scope="module")
def routes(app: Flask) -> list[Route]:
    """Every route of the app, in an order in which none spoils the next."""
    found = [
        Route(method, rule, vars(app.view_functions[rule.endpoint])["contract"])
        for rule in app.url_map.iter_rules()
        if not rule.endpoint.startswith("swagger_ui.")
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
    ]
    return sorted(found, key=lambda route: (ORDER.index(route.method), route.name))


def _invented(like: str) -> str:
    """Something of the same form that nobody has."""
    return str(uuid.uuid4()) if ID.fullmatch(like) else f"nobody{uuid.uuid4().hex[: max(4, len(like) - 6)]}"


def _comparable(answer: Answer, sent: str) -> tuple[int, dict[str, str], str]:
    """The answer without what differs each time; what was sent is a blank."""
    body = answer.body
    if isinstance(body, dict):
        body = {name: value for name, value in body.items() if name != "request_id"}
    text = json.dumps(body, ensure_ascii=False).replace(sent, "<sent>")
    if answer.status < 400:
        text = NEWS.sub("<new>", ID.sub("<id>", text))
    return answer.status, {name: value for name, value in answer.headers.items() if name in HEADERS}, text


def _state(sql: Sql, tenant: Tenant) -> dict[str, Any]:
    """A checksum of every row that the business has, and of its people's logins."""
    business_id = tenant.client.business_id
    sums: dict[str, Any] = {
        table: sql(
            f"SELECT count(*), md5(coalesce(string_agg(row::text, '|' ORDER BY row::text), ''))"
            f" FROM {table} row WHERE business_id = %s",
            business_id,
        )
        for (table,) in sql(TENANT_TABLES)
    }
    people_of = "SELECT user_id FROM memberships WHERE business_id = %s"
    sums["users"] = sql(
        f"SELECT md5(string_agg(u::text, '|' ORDER BY u::text)) FROM users u WHERE user_id IN ({people_of})",
        business_id,
    )
    sums["global_templates"] = sql("SELECT count(*), max(created_at) FROM global_templates")
    return sums


def _leaks(answers: Mapping[str, str], marks: set[str]) -> list[tuple[str, str]]:
    return [(place, mark) for place, text in answers.items() for mark in marks if mark in text]


def _everything_read(caller: Client, tenant: Tenant, routes: list[Route]) -> dict[str, str]:
    """What a caller can read: every GET with the own ids, also with every filter on an own value."""
    answers = {}
    for route in (route for route in routes if route.method == "GET"):
        own = {name: value for name, value in tenant.ids.items() if name in route.contract.query}
        for query in ({}, *({name: value} for name, value in own.items())):
            path = route.path(tenant.ids, **query)
            answer = caller.get(path)
            answers[path] = json.dumps(answer.body, ensure_ascii=False) + json.dumps(dict(answer.headers))
    return answers


def test_every_body_that_a_route_takes_has_a_recipe_with_all_its_references(routes: list[Route]) -> None:
    taken = {route.contract.takes for route in routes if route.contract.takes}
    assert taken == set(recipes.BODIES)
    for schema in taken:
        filled = recipes.fields_in(recipes.BODIES[schema])
        assert recipes.references(schema) - filled == set(), f"{schema}: nobody tries foreign ids there"


def test_every_id_in_a_path_is_one_of_the_tenants(routes: list[Route], cast: Cast) -> None:
    assert {name for route in routes for name in route.rule.arguments} <= set(cast.alice.ids)


def test_charlie_reads_all_of_his_own_and_nothing_of_alices(routes: list[Route], cast: Cast) -> None:
    read = _everything_read(cast.caller, cast.charlie, routes)
    assert _leaks(read, cast.alice.marks) == []
    # Seeing nothing at all would prove nothing.
    seen = {path for path, text in read.items() if cast.charlie.word in text}
    assert len(seen) > len(read) / 2
    assert not any(secret in text for text in read.values() for secret in cast.charlie.secrets)


def _paths(route: Route, cast: Cast) -> Iterator[tuple[str, str, str, str]]:
    """For each id of a route: what is tried, a path with Alice's id and one with nobody's, and the id in it."""
    own = cast.charlie.ids
    for name in sorted(route.rule.arguments):
        foreign, nobody = cast.alice.ids[name], _invented(cast.alice.ids[name])
        yield foreign, route.path({**own, name: foreign}), nobody, route.path({**own, name: nobody})
    if len(route.rule.arguments) > 1:
        nobody = str(uuid.uuid4())
        yield (
            cast.alice.client.business_id,
            route.path(cast.alice.ids),
            nobody,
            route.path({**cast.alice.ids, "business_id": nobody}),
        )


def _queries(route: Route, cast: Cast) -> Iterator[tuple[str, str, str, str]]:
    for name in sorted({*route.contract.query, "business_id"} & cast.alice.ids.keys()):
        foreign, nobody = cast.alice.ids[name], _invented(cast.alice.ids[name])
        own = cast.charlie.ids
        yield foreign, route.path(own, **{name: foreign}), nobody, route.path(own, **{name: nobody})


def test_alices_ids_are_like_nobodys_in_every_path_and_query(routes: list[Route], cast: Cast, sql: Sql) -> None:
    before, tried = _state(sql, cast.alice), 0
    for route in routes:
        body = recipes.filled(route.bodies()[0], cast.charlie.ids | {"key": "icmp_biz_none"})
        changes_own = route.method != "GET" and not route.rule.arguments
        for foreign, path, nobody, other in [*_paths(route, cast), *(() if changes_own else _queries(route, cast))]:
            mine = _comparable(cast.caller.call(route.method, path, body), foreign)
            theirs = _comparable(cast.caller.call(route.method, other, body), nobody)
            assert mine == theirs, (route.name, path)
            assert _leaks({path: mine[2]}, cast.alice.marks) == []
            tried += 1
    assert tried > len(routes)
    assert _state(sql, cast.alice) == before


def test_alices_ids_are_like_nobodys_in_every_body(routes: list[Route], cast: Cast, sql: Sql) -> None:
    before, tried = _state(sql, cast.alice), 0
    # One stranger for the whole walk: what is sent twice may be a conflict the second time, for both alike.
    strangers = {name: _invented(like) for name, like in cast.alice.ids.items()}
    for route in routes:
        for recipe in route.bodies() if route.contract.takes else []:
            for name in sorted(recipes.names_in(recipe) & strangers.keys()):
                if name == "business_id" and route.name in TAKES_ANY_BUSINESS:
                    continue
                mine = _comparable(_sent(route, recipe, cast, {name: cast.alice.ids[name]}), cast.alice.ids[name])
                theirs = _comparable(_sent(route, recipe, cast, {name: strangers[name]}), strangers[name])
                assert mine == theirs, (route.name, name)
                assert _leaks({route.name: mine[2]}, cast.alice.texts) == []
                tried += 1
    assert tried > 50
    assert _state(sql, cast.alice) == before


def _sent(route: Route, recipe: Any, cast: Cast, one: Mapping[str, str]) -> Answer:
    """The request with Charlie's own names but this one; what it creates gets names that are new."""
    fresh = {"unique": uuid.uuid4().hex, "event_id": str(uuid.uuid4()), "key": str(cast.charlie.client.key)}
    own = dict(cast.charlie.ids)
    if route.method == "POST":
        own |= {name: f"new-{uuid.uuid4().hex}" for name in ("agent_name", "stage_name", "sku", "order_number")}
        own |= {"template_id": f"new.{uuid.uuid4().hex}"} if route.contract.takes == "template_create" else {}
    query = {"dry_run": "true"} if "dry_run" in route.contract.query else {}
    return cast.caller.call(
        route.method, route.path(cast.charlie.ids, **query), recipes.filled(recipe, {**own, **fresh, **one})
    )


def test_a_set_up_with_all_of_alices_names_is_charlies_own(cast: Cast, sql: Sql) -> None:
    before = _state(sql, cast.alice)
    [recipe] = recipes.BODIES["config"]
    document = recipes.filled({name: value for name, value in recipe.items() if name != "business_id"}, cast.alice.ids)
    assert cast.caller.call("PUT", "/api/v1/config", document).status == 200
    assert cast.caller.get("/api/v1/agents").body[0]["business_id"] == cast.charlie.client.business_id
    assert _state(sql, cast.alice) == before


def test_alices_cursors_lead_charlie_nowhere_but_to_his_own(routes: list[Route], cast: Cast) -> None:
    followed = 0
    for route in routes:
        if route.method == "GET" and "cursor" in route.contract.query:
            link = cast.alice.client.get(route.path(cast.alice.ids, limit="1")).headers.get("Link", "")
            found = re.search(r"cursor=([^&>]+)", link)
            if found:
                answer = cast.caller.get(route.path(cast.charlie.ids, cursor=found[1]))
                assert answer.status in {200, 400}, route.name
                assert _leaks({route.name: json.dumps(answer.body)}, cast.alice.marks) == []
                followed += 1
    assert followed >= 6  # a list has a cursor when it has a second page
