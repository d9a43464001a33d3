"""The audit log: every change of configuration with its author, every use of the master key, and nothing secret."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import pytest
from flask import Flask

import db
from api.settings import Settings
from db import audit
from tests.api import people, shop
from tests.conftest import MASTER_KEY, Client, onboard
from tests.db import own_database
from tests.db.own_database import OwnDatabase, Serve

PATH = "/api/v1/audit"
Sql = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def house(settings: Settings, serve: Serve) -> Iterator[OwnDatabase]:
    with own_database.made(settings, serve) as made:
        yield made


@pytest.fixture(scope="module")
def generous(settings: Settings, serve: Serve) -> Client:
    """The master at an app where many log in from one address."""
    return Client(serve(people.generous(settings)), MASTER_KEY)


def _entries(client: Client, query: str = "") -> list[dict[str, Any]]:
    """The business's log, oldest first."""
    answer = client.get(f"{PATH}?limit=500{query}")
    assert answer.status == 200, answer.body
    return list(reversed(answer.body))


def _walk(client: Client) -> dict[str, str]:
    """One change of each kind: the target by action."""
    targets: dict[str, str] = {}
    made = {
        "agents": {"agent_name": "Kim"},
        "templates": {"template_id": "own.reply", "kind": "response_generation", "text": "Be brief."},
        "stages": shop.SMALL_TALK,
        "products": {"name": "Lamp"},
        "services": {"name": "Repair"},
        "users": {"role": "customer"},
    }
    for room, body in made.items():
        created = client.post(f"/api/v1/{room}", body)
        assert created.status == 201, created.body
        place = created.headers["Location"]
        name = {"agents": "agent_description", "templates": "text", "users": "phone_number"}.get(room, "description")
        changed = client.patch(place, {"stage_description" if room == "stages" else name: "other words"})
        assert (changed.status, client.delete(place).status) == (200, 204), changed.body
        targets |= {f"{room}.{verb}": place.rpartition("/")[2] for verb in ("create", "update", "delete")}
    own = f"/api/v1/businesses/{client.business_id}"
    settings = {"settings": {"messages_per_minute": 50}, "website": "https://lamps.example"}
    assert client.patch(own, settings).status == 200
    key = client.post(f"{own}/api-keys", {"name": "second"}).body["key_id"]
    assert client.delete(f"{own}/api-keys/{key}").status == 204
    return targets | {"businesses.update": client.business_id, "keys.create": key, "keys.delete": key}


def test_every_change_of_configuration_is_written_down_with_its_author(alice: Client) -> None:
    targets = _walk(alice)
    first, *entries = _entries(alice)
    assert (first["actor"], first["action"], first["target_id"]) == ("master", "businesses.create", alice.business_id)
    assert {entry["action"]: entry["target_id"] for entry in entries} == targets
    assert len(entries) == len(targets)
    [key] = [key for key in alice.get(f"/api/v1/businesses/{alice.business_id}/api-keys").body if not key["revoked_at"]]
    for entry in entries:
        assert (entry["actor"], entry["key_id"], entry["user_id"]) == ("business", key["key_id"], None)
        assert (entry["business_id"], entry["outcome"]) == (alice.business_id, "done")
        assert entry["client_network"] == "127.0.0.0/24"
    fields = {entry["action"]: entry["fields"] for entry in entries}
    assert fields["businesses.update"] == ["website", "settings.messages_per_minute"]
    assert (fields["users.update"], fields["agents.delete"]) == (["phone_number"], [])


def test_the_request_id_leads_from_the_entry_to_the_log(alice: Client) -> None:
    alice.post("/api/v1/agents", {"agent_name": "Kim"}, X_Request_ID="asked-by-me")
    assert _entries(alice)[-1]["request_id"] == "asked-by-me"


def test_a_person_is_named_by_id_and_their_logins_are_written_down(generous: Client) -> None:
    business = onboard(generous, "Shop")
    person = people.hire(business, "admin")
    client = person.client(generous.port)
    client.post("/api/v1/agents", {"agent_name": "Kim"})
    login, change = _entries(client)[-2:]
    assert (login["actor"], login["action"], login["user_id"]) == ("user", "login.create", person.user_id)
    assert (change["actor"], change["action"], change["user_id"]) == ("user", "agents.create", person.user_id)
    assert change["key_id"] is None


def test_refused_logins_look_alike_whether_the_address_is_known_or_not(generous: Client) -> None:
    person = people.hire(onboard(generous, "Shop"), "admin")
    known = [people.Person(person.user_id, person.email, "a wrong pass phrase") for _ in range(2)]
    unknown = people.Person("", people.address(), "a wrong pass phrase")
    assert [each.login(generous.port).status for each in (*known, unknown)] == [401] * 3
    last, *before = generous.get(f"{PATH}?action=login.create&actor=nobody&limit=3").body
    for entry in (last, *before):
        assert (entry["outcome"], entry["business_id"], entry["user_id"]) == ("refused", None, None)
    assert before[0]["target_id"] == before[1]["target_id"] != last["target_id"]
    assert person.email not in str(before)


def test_the_set_up_tells_which_sections_changed_and_a_rehearsal_is_none(alice: Client) -> None:
    document = alice.get("/api/v1/config").body | {"agents": [{"agent_name": "Kim"}]}
    for query in ("?dry_run=true", "", ""):
        assert alice.call("PUT", f"/api/v1/config{query}", document).status == 200
    changes = [entry for entry in _entries(alice) if entry["action"] == "config.replace"]
    assert [entry["fields"] for entry in changes] == [["agents"]]


def test_what_is_refused_or_only_read_is_no_change(alice: Client) -> None:
    before = len(_entries(alice))
    assert alice.post("/api/v1/agents", {"agent_name": 7}).status == 400
    assert alice.patch(f"/api/v1/agents/{uuid.uuid4()}", {"agent_name": "Kim"}).status == 404
    assert [alice.get(f"/api/v1/{room}").status for room in ("agents", "stages", "products")] == [200] * 3
    shop.furnish(alice, shop.SMALL_TALK)
    assert shop.write(alice, "Hello").status == 200
    assert [entry["action"] for entry in _entries(alice)[before:]] == ["stages.create"]


def test_a_change_that_cannot_be_written_down_does_not_happen(house: OwnDatabase) -> None:
    client = onboard(house.master(), "Shop")
    house.sql("REVOKE INSERT ON audit_log FROM icmp_app")
    assert client.post("/api/v1/agents", {"agent_name": "Kim"}).status == 500
    assert client.get("/api/v1/agents").body == []
    # Reading goes on, for the master too.
    master = Client(client.port, MASTER_KEY)
    assert master.get(f"/api/v1/agents?business_id={client.business_id}").status == 200
    house.sql("GRANT INSERT ON audit_log TO icmp_app")
    assert client.post("/api/v1/agents", {"agent_name": "Kim"}).status == 201


def test_every_use_of_the_master_key_leaves_one_entry(house: OwnDatabase) -> None:
    master = house.master()
    client = onboard(master, "Shop")
    here, nowhere = f"business_id={client.business_id}", f"business_id={uuid.uuid4()}"
    calls = [
        ("GET", f"/api/v1/agents?{here}", None, ("agents.read", "done")),
        ("POST", f"/api/v1/agents?{here}", {"agent_name": "Kim"}, ("agents.create", "done")),
        ("POST", f"/api/v1/agents?{here}", {"agent_name": "Kim"}, ("agents.create", "refused")),
        ("GET", f"/api/v1/agents?{nowhere}", None, ("agents.read", "refused")),
        ("GET", "/api/v1/agents", None, ("agents.read", "refused")),
        ("GET", "/api/v1/businesses", None, ("businesses.read", "done")),
        ("POST", "/api/v1/templates", _template(), ("templates.create", "done")),
        ("GET", "/api/v1/auth/me?no_such=1&" + here, None, ("login.read", "refused")),
        ("DELETE", f"/api/v1/businesses/{client.business_id}", None, ("businesses.delete", "done")),
    ]
    for method, path, body, _ in calls:
        master.call(method, path, body)
    listed = master.get(f"{PATH}?actor=master").body
    seen = [(entry["action"], entry["outcome"]) for entry in reversed(listed)]
    assert seen == [("businesses.create", "done"), *(call[-1] for call in calls)]
    assert {entry["business_id"] for entry in listed} == {None, client.business_id}
    [deleted] = master.get(f"{PATH}?action=businesses.delete").body
    assert deleted["target_id"] == client.business_id


def _template() -> dict[str, str]:
    return {"template_id": f"global.{uuid.uuid4().hex}", "kind": "response_generation", "text": "Be brief."}


def test_a_business_sees_what_the_master_did_in_it(master: Client, alice: Client) -> None:
    assert master.get(f"/api/v1/conversations?business_id={alice.business_id}").status == 200
    last = _entries(alice)[-1]
    assert (last["actor"], last["action"], last["outcome"]) == ("master", "conversations.read", "done")


def test_the_trail_of_a_deleted_business_stays_for_the_master(master: Client, alice: Client) -> None:
    alice.post("/api/v1/agents", {"agent_name": "Kim"})
    assert master.delete(f"/api/v1/businesses/{alice.business_id}").status == 204
    left = master.get(f"{PATH}?business_id={alice.business_id}").body
    assert [entry["action"] for entry in left] == ["businesses.delete", "agents.create", "businesses.create"]
    assert alice.get(PATH).status == 401


def test_charlie_sees_nothing_of_alices_trail(alice: Client, charlie: Client) -> None:
    alice.post("/api/v1/agents", {"agent_name": "Kim"})
    refused = charlie.get(f"{PATH}?business_id={alice.business_id}")
    assert (refused.status, refused.error_code) == (403, "FORBIDDEN")
    assert {entry["business_id"] for entry in _entries(charlie)} == {charlie.business_id}
    assert charlie.get(f"{PATH}?business_id={audit.PLATFORM}").status == 403


def test_the_list_is_filtered_and_paged(alice: Client) -> None:
    for number in range(5):
        alice.post("/api/v1/agents", {"agent_name": str(number)})
    everything = alice.get(PATH).body
    seen: list[dict[str, Any]] = []
    path = f"{PATH}?limit=2"
    while path:
        page = alice.get(path)
        seen += page.body
        path = page.headers.get("Link", "").partition(">")[0].partition(f":{alice.port}")[2]
    assert seen == everything
    middle = everything[2]["created_at"]
    assert alice.get(f"{PATH}?since={middle}").body == everything[:3]
    assert alice.get(f"{PATH}?until={middle}").body == everything[3:]
    assert alice.get(f"{PATH}?actor=master").body == [everything[-1]]
    assert alice.get(f"{PATH}?action=businesses.create").body == [everything[-1]]
    assert alice.get(f"{PATH}?actor=somebody").status == 400


def test_the_masters_list_is_paged_too(master: Client, alice: Client) -> None:
    for _ in range(3):
        master.get(f"/api/v1/agents?business_id={alice.business_id}")
    whole = master.get(f"{PATH}?action=agents.read&limit=3").body
    # Paging itself is a use of the master key, but of another action.
    first = master.get(f"{PATH}?action=agents.read&limit=2")
    path = first.headers["Link"].partition(">")[0].partition(f":{master.port}")[2]
    assert [*first.body, *master.get(path).body][:3] == whole
    assert len(whole) == 3


def test_the_app_can_neither_change_nor_delete_an_entry(alice: Client, database_url: str) -> None:
    database = db.Database(database_url, pool_size=1)
    for statement in ("UPDATE audit_log SET actor = 'nobody'", "DELETE FROM audit_log", "TRUNCATE audit_log"):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege), database.transaction(alice.business_id) as conn:
            db.execute(conn, statement)
    database.close()
    assert _entries(alice)


def test_a_command_is_written_down_as_one(flask_app: Flask, master: Client) -> None:
    result = flask_app.test_cli_runner().invoke(args=["create-business", f"Shop {uuid.uuid4().hex}"])
    business_id = result.output.split()[1]
    [entry] = master.get(f"{PATH}?business_id={business_id}").body
    assert (entry["actor"], entry["action"], entry["request_id"]) == ("command", "businesses.create", None)
