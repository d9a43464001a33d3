"""Plans at a medium size: no request reads a whole table, and a deep page costs what a first one does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

import pytest
from flask import Flask
from flask.testing import FlaskClient

import schemas
from api import retention
from api.settings import Settings
from bench import big_rows
from tests.conftest import MASTER_KEY
from tests.db import plans
from tests.db.plans import PLAN, Watch

KNOWN = {
    *("memberships", "api_keys", "sessions", "user_sessions", "agents", "products", "services", "orders", "templates"),
    *("stages", "conversations", "turns", "messages", "turn_steps", "events", "users"),
}
LIST_ROWS = 10
# What one statement may fetch: a short list with what is joined to each row, or a turn's history, stages, templates.
MOST_ROWS = 150
# These add up, list or delete without a bound, which is what they are for.
UNBOUNDED = re.compile(r"GET /api/v1/analytics|GET /api/v1/businesses \[|DELETE |purge")


@dataclass(frozen=True)
class World:
    """The watched app, what it did, and one business to ask about."""

    app: Flask
    client: FlaskClient
    watch: Watch
    url: str

    def ask(self, method: str, path: str, business_id: str, body: Any = None, **query: Any) -> Any:
        """A request of the master for this business; a fault fails the test."""
        told = {"json": body} if body is not None else {}
        self.watch.request = f"{method} {path} {sorted(query)}"
        answer = self.client.open(
            f"{path}?{urlencode({'business_id': business_id, **query})}",
            method=method,
            headers={"Authorization": f"Bearer {MASTER_KEY}"},
            **told,
        )
        assert answer.status_code < 500, (method, path, query, answer.get_data(as_text=True))
        return answer

    def largest_since(self, mark: int) -> plans.Read:
        """Of the statements since then the one that fetched most rows."""
        return max(self.watch.reads[mark:], key=lambda read: sum(read.rows.values()))


@pytest.fixture(scope="module")
def world(database_url: str, settings: Settings) -> Iterator[World]:
    with plans.filled(database_url) as url:
        watch = Watch()
        app = plans.watched(replace(settings, database_url=url, migration_database_url=url), watch)
        yield World(app, app.test_client(), watch, url)
        app.extensions["icmp"].database.close()


def _value(name: str, schema: dict[str, Any], ids: dict[str, str]) -> Any:
    """Something that a query parameter may be."""
    if name in ids:
        return ids[name]
    if "enum" in schema:
        return schema["enum"][0]
    if schema["type"] in {"integer", "boolean"}:
        return {"offset": 3, "version": 1}.get(name, "true")
    return PLAN.begin.isoformat() if schema.get("format") == "date-time" else "reply"


def _body(schema: str, ids: dict[str, str]) -> Any:
    """The schema's example, about our business and its things."""

    def owned(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: ids[key] if key in ids and key != "template_id" else owned(each) for key, each in value.items()
            }
        return [owned(each) for each in value] if isinstance(value, list) else value

    return owned(schemas.document(schema)["examples"][0])


def _routes(app: Flask, *methods: str) -> Iterator[tuple[str, str, Any]]:
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule):
        promised = getattr(app.view_functions[rule.endpoint], "contract", None)
        for method in sorted((rule.methods or set()) & set(methods)):
            if promised is not None:
                yield method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), promised


def _walk(world: World, ids: dict[str, str]) -> None:
    """Every route: reading plainly and by each filter, then writing, then deleting, the business last."""
    business_id = ids["business_id"]
    for method, path, promised in _routes(world.app, "GET"):
        size = {"limit": LIST_ROWS} if "limit" in promised.query else {}
        world.ask(method, path.format(**ids), business_id, **size)
        for name, schema in promised.query.items():
            if name not in {"cursor", "limit"}:
                world.ask(method, path.format(**ids), business_id, **size, **{name: _value(name, schema, ids)})
    for method, path, promised in _routes(world.app, "POST", "PATCH", "PUT"):
        if promised.takes is not None and path != "/api/v1/config":
            world.ask(method, path.format(**ids), business_id, _body(promised.takes, ids))
    config = world.ask("GET", "/api/v1/config", business_id).get_json()
    world.ask("PUT", "/api/v1/config", business_id, config, dry_run="true")
    for method, path, _ in sorted(_routes(world.app, "DELETE"), key=lambda route: route[1].endswith("{business_id}")):
        world.ask(method, path.format(**ids), business_id)


@pytest.mark.parametrize(
    ("path", "business", "most"),
    [
        ("/api/v1/events", "big", 4 * LIST_ROWS),
        ("/api/v1/conversations", "big", 4 * LIST_ROWS),
        ("/api/v1/users", "big", 4 * LIST_ROWS),
        # Of one conversation the planner may read all and sort, where that is cheaper than the index: never more.
        ("/api/v1/conversations/{conversation_id}/messages", "wide", 1000),
        ("/api/v1/conversations/{conversation_id}/turns", "wide", 1000),
    ],
)
def test_a_deep_page_reads_no_more_rows_than_the_first(world: World, path: str, business: str, most: int) -> None:
    business_id = PLAN.measured[business]
    long = max((each for each in PLAN.conversations if each.business == 1), key=lambda each: each.turns)
    path = path.format(conversation_id=big_rows.key("conversation", long.n))
    first, offset, largest = world.ask("GET", path, business_id, limit=LIST_ROWS), 120, []
    for start in (0, offset):
        page = first if start == 0 else world.ask("GET", path, business_id, limit=LIST_ROWS, offset=start)
        link = re.search(r"cursor=([^&>]+)", page.headers["Link"])
        assert link is not None
        mark = len(world.watch.reads)
        following = world.ask("GET", path, business_id, limit=LIST_ROWS, cursor=link[1])
        assert len(following.get_json()) == LIST_ROWS
        largest.append(world.largest_since(mark))
    first_rows, deep_rows = (sum(read.rows.values()) for read in largest)
    assert deep_rows <= max(first_rows + 2, most) and first_rows <= most, largest


def _told(read: plans.Read) -> str:
    return f"{read.request}: {' '.join(read.sql.split())}"


# The last test of this file: at its end two businesses are gone.
def test_no_statement_scans_a_tenants_table(world: World) -> None:
    large = plans.large_tables(world.url)
    assert large >= KNOWN
    begin = len(world.watch.reads)
    for name in ("big", "ordinary"):
        _walk(world, plans.ids_of(world.url, PLAN.measured[name]))
    world.watch.request = "purge"
    wish = retention.Wish(messages_older_than=360, events_older_than=364, ended_sessions=True, rows=1000)
    retention.run(world.app.extensions["icmp"].database, wish, outcome := retention.Outcome())
    assert outcome.unfinished == {} and outcome.deleted["messages"] > 0 < outcome.deleted["events"]
    reads = world.watch.reads[begin:]
    unread = {table for table in KNOWN if not any(re.search(rf"\b{table}\b", read.sql) for read in reads)}
    assert unread == set()
    # In a small table reading all of it is the right plan.
    scans = {_told(read): read.scanned & large for read in reads if read.scanned & large}
    assert scans == {}
    fetched = {_told(read): sum(rows for table, rows in read.rows.items() if table in large) for read in reads}
    greedy = {told: rows for told, rows in fetched.items() if rows > MOST_ROWS}
    assert {told: rows for told, rows in greedy.items() if not UNBOUNDED.match(told)} == {}
