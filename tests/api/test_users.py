"""Users: what a business knows of people, what it may change of them, and what it never sees."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask

from api.settings import Settings
from tests.api import people, shop
from tests.api.people import LIST, PASSWORD
from tests.conftest import Answer, Client

Sql = Callable[..., list[tuple[Any, ...]]]
KIM = {"name": "Kim Example", "email": "kim@example.com", "phone_number": "+44 20 7946 0001", "profile": {"vip": True}}


@pytest.fixture(scope="module")
def port(settings: Settings, serve: Callable[[Flask], int]) -> int:
    """Where any number of people may log in."""
    return serve(people.generous(settings))


def _user(client: Client, **fields: Any) -> dict[str, Any]:
    created = client.post(LIST, fields)
    assert created.status == 201, created.body
    body: dict[str, Any] = created.body
    return body


def _without_id(answer: Answer) -> dict[str, Any]:
    return {name: value for name, value in answer.body.items() if name != "request_id"}


def test_a_user_is_made_read_changed_and_forgotten(alice: Client) -> None:
    created = alice.post(LIST, KIM)
    assert (created.status, created.body["role"]) == (201, "customer")
    path = created.headers["Location"]
    assert alice.get(path).body == created.body
    assert {name: created.body[name] for name in KIM} == KIM
    changed = alice.patch(path, {"phone_number": None, "profile": {"size": "M"}, "role": "viewer"}).body
    assert (changed["phone_number"], changed["profile"], changed["role"]) == (None, {"size": "M"}, "viewer")
    assert (changed["name"], changed["email"]) == (KIM["name"], KIM["email"])
    bare = _user(alice)
    assert (bare["name"], bare["email"], bare["profile"]) == (None, None, {})
    assert (alice.delete(path).status, alice.get(path).status, alice.delete(path).status) == (204, 404, 404)


def test_lists_filter_by_role_and_page(alice: Client) -> None:
    made = [_user(alice, role=role)["user_id"] for role in ("viewer", "customer", "viewer", "viewer")]
    [owner] = alice.get(f"{LIST}?role=owner").body
    viewers = [made[3], made[2], made[0]]
    assert [each["user_id"] for each in alice.get(LIST).body] == [*made[::-1], owner["user_id"]]
    page = alice.get(f"{LIST}?role=viewer&limit=2")
    link = page.headers["Link"]
    rest = alice.get(link[link.index("/api") : link.index(">")])
    assert [each["user_id"] for each in (*page.body, *rest.body)] == viewers
    assert alice.get(f"{LIST}?role=boss").status == 400


def test_fields_are_checked(alice: Client) -> None:
    bodies: list[dict[str, Any]] = [
        {"role": "boss"},
        {"email": "no address"},
        {"email": "a@b c"},
        {"name": ""},
        {"profile": []},
        {"password": PASSWORD},
        {"email": "a@example.com", "password": "short"},
        {"user_id": "7"},
        {"login_email": "a@example.com"},
        {"colour": "red"},
    ]
    for wrong in bodies:
        refused = alice.post(LIST, wrong)
        assert (refused.status, refused.error_code) == (400, "INVALID_REQUEST"), wrong
    known = _user(alice)
    again = alice.post(LIST, {"user_id": known["user_id"].upper()})
    assert (again.status, again.error_code) == (409, "CONFLICT")


@pytest.mark.parametrize(
    "address",
    [
        "a\x0fb@example.com", "a@v\x87.com", "a\u202eb@example.com", "a b@example.com", "a..b@example.com",
        ".a@example.com", "a@b@example.com", "a<b>@example.com", "a@-b.com", "a@b_c.com", "a@b..com", "a@b.com.",
        "a@xn--a", "a@😀.com", "@example.com", "a@", "a" * 65 + "@example.com", "a@" + "b" * 64, "a@example.com\n",
    ],
)  # fmt: skip
def test_an_address_that_is_none_is_refused_wherever_it_is_taken(address: str, alice: Client, master: Client) -> None:
    owner = {"email": address, "password": PASSWORD}
    for refused in (
        alice.post(LIST, {"email": address}),
        alice.patch(f"{LIST}/{_user(alice)['user_id']}", {"login_email": address}),
        master.post("/api/v1/businesses", {"owner_id": str(uuid.uuid4()), "business_name": "x", "owner": owner}),
    ):
        assert (refused.status, refused.error_code) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize(
    "address",
    [
        "a@b", "o'neill+tag@sub.example.com", "Zoë@EXÄMPLE.com", "用户@例子.广告", "דוא.ל@דוגמה.com",
        "a@xn--bcher-kva.ch",
    ],
)  # fmt: skip
def test_an_address_may_be_in_any_script(address: str, alice: Client) -> None:
    assert _user(alice, email=address)["email"] == address


def test_a_customer_who_wrote_is_a_user_whose_name_reaches_the_prompt(
    settings: Settings, serve: Callable[[Flask], int]
) -> None:
    with shop.thinking(settings, serve) as thinker:
        client = thinker.shop(shop.stage("small_talk"))
        template = {"template_id": "greeting", "kind": "response_generation", "text": "Greet {{ user.name }}."}
        made = client.post("/api/v1/templates", template | {"input_variables": ["user"]})
        assert made.status == 201, made.body
        prompt = {"response_generation": {"prompt": {"template_id": "greeting"}}}
        [stage] = client.get("/api/v1/stages").body
        assert client.patch(f"/api/v1/stages/{stage['stage_id']}", prompt).status == 200
        thinker.script(response_generation=shop.says("Hello Kim."))
        customer = str(uuid.uuid4())
        assert shop.write(client, "Hello", customer).status == 200
        assert client.get(f"{LIST}/{customer}").body["role"] == "customer"
        assert client.patch(f"{LIST}/{customer}", {"name": "Kim Example"}).status == 200
        assert shop.write(client, "Hello again", customer).status == 200
        assert "Greet Kim Example." in thinker.asked("response_generation")[-1]


def test_one_person_is_two_strangers_to_two_businesses(alice: Client, charlie: Client) -> None:
    person = str(uuid.uuid4())
    _user(alice, user_id=person, **KIM)
    missing = f"{LIST}/{uuid.uuid4()}"
    for ask in (charlie.get, charlie.delete, lambda path: charlie.patch(path, {"name": "mine"})):
        answers = [ask(f"{LIST}/{person}"), ask(missing)]
        assert [answer.status for answer in answers] == [404, 404]
        assert _without_id(answers[0]) == _without_id(answers[1])
    theirs = _user(charlie, user_id=person, name="K.", role="viewer")
    assert (theirs["name"], theirs["email"], theirs["profile"], theirs["role"]) == ("K.", None, {}, "viewer")
    assert charlie.patch(f"{LIST}/{person}", {"email": "k@charlie.example"}).status == 200
    ours = alice.get(f"{LIST}/{person}").body
    assert ({name: ours[name] for name in KIM}, ours["role"]) == (KIM, "customer")
    assert charlie.delete(f"{LIST}/{person}").status == 204
    assert alice.get(f"{LIST}/{person}").body == ours


def test_raw_tables_show_nothing_of_a_person(alice: Client, sql: Sql) -> None:
    person = _user(alice, **(KIM | {"email": people.address()}), password=PASSWORD)
    rows = sql("SELECT memberships::text FROM memberships WHERE user_id = %s", person["user_id"])
    rows += sql("SELECT users::text FROM users WHERE user_id = %s", person["user_id"])
    assert len(rows) == 2
    for secret in (KIM["name"], person["email"], KIM["phone_number"], "vip", PASSWORD):
        for (row,) in rows:
            assert str(secret) not in row
            assert str(secret).encode().hex() not in row


def test_forgetting_a_customer_takes_the_conversations_and_leaves_the_orders(alice: Client) -> None:
    shop.furnish(alice, shop.SMALL_TALK)
    customer = str(uuid.uuid4())
    conversation_id = shop.write(alice, "Hello", customer).body["conversation_id"]
    item = {"name": "Lamp", "quantity": 1, "unit_price": 5}
    order = alice.post("/api/v1/orders", {"user_id": customer, "items": [item], "currency": "GBP"})
    assert order.status == 201, order.body
    assert alice.delete(f"{LIST}/{customer}").status == 204
    assert alice.get(f"/api/v1/conversations/{conversation_id}").status == 404
    left = alice.get(f"/api/v1/orders/{order.body['order_id']}")
    assert (left.status, left.body["user_id"]) == (200, None)


def test_the_owner_of_the_business_stays_its_owner(alice: Client) -> None:
    [owner] = alice.get(f"{LIST}?role=owner").body
    path = f"{LIST}/{owner['user_id']}"
    for answer in (alice.delete(path), alice.patch(path, {"role": "viewer"})):
        assert (answer.status, answer.error_code) == (409, "CONFLICT")
    assert alice.patch(path, {"name": "Alice", "role": "owner"}).status == 200
    second = _user(alice, role="owner")
    assert alice.delete(f"{LIST}/{second['user_id']}").status == 204


def test_an_admin_can_neither_become_an_owner_nor_touch_one(alice: Client, port: int) -> None:
    person = people.hire(alice, "admin")
    admin = person.client(port)
    [owner] = alice.get(f"{LIST}?role=owner").body
    login = {"login_email": people.address(), "password": "a quite new phrase"}
    answers = [
        admin.patch(f"{LIST}/{person.user_id}", {"role": "owner"}),
        admin.post(LIST, {"role": "owner"}),
        admin.patch(f"{LIST}/{owner['user_id']}", {"role": "admin"}),
        admin.patch(f"{LIST}/{owner['user_id']}", login),
        admin.delete(f"{LIST}/{owner['user_id']}"),
    ]
    assert [(answer.status, answer.error_code) for answer in answers] == [(403, "FORBIDDEN")] * 5
    hired = people.hire(admin, "operator")
    assert admin.patch(f"{LIST}/{hired.user_id}", {"role": "viewer"}).status == 200
    assert admin.delete(f"{LIST}/{hired.user_id}").status == 204


def test_a_login_is_given_once_and_one_address_is_one_login(alice: Client, port: int) -> None:
    person = people.hire(alice, "viewer")
    taken = alice.post(LIST, {"email": person.email.upper(), "password": PASSWORD})
    assert (taken.status, taken.error_code, "email" in taken.body["details"]) == (409, "CONFLICT", True)
    plain = _user(alice, role="viewer", email=people.address())
    path = f"{LIST}/{plain['user_id']}"
    assert alice.patch(path, {"password": PASSWORD}).status == 400
    given = {"login_email": people.address(), "password": PASSWORD}
    assert alice.patch(path, given).status == 200
    late = people.Person(plain["user_id"], given["login_email"])
    assert late.login(port).status == 200
    for change in ({"password": "a quite new phrase"}, {"login_email": people.address()}):
        refused = alice.patch(path, change)
        assert (refused.status, refused.error_code) == (403, "FORBIDDEN")
    assert alice.patch(path, {"email": "new@example.com"}).status == 200
    assert late.login(port).status == 200


def test_charlie_cannot_make_a_login_for_alices_people_and_learns_nothing(
    alice: Client, charlie: Client, master: Client, port: int
) -> None:
    [owner] = alice.get(f"{LIST}?role=owner").body
    with_login = people.hire(alice, "admin")
    trap = {"email": people.address(), "password": PASSWORD}
    answers = [charlie.post(LIST, {"user_id": user_id, **trap}) for user_id in (owner["user_id"], with_login.user_id)]
    assert [answer.status for answer in answers] == [409, 409]
    assert _without_id(answers[0]) == _without_id(answers[1])
    assert people.Person("", trap["email"]).login(port).status == 401
    _user(charlie, user_id=owner["user_id"], role="viewer")
    later = charlie.patch(f"{LIST}/{owner['user_id']}", {"login_email": trap["email"], "password": PASSWORD})
    assert later.status == 409
    path = f"{LIST}/{owner['user_id']}?business_id={alice.business_id}"
    assert master.patch(path, {"login_email": trap["email"], "password": PASSWORD}).status == 200
    answer = people.Person("", trap["email"]).login(port, business_id=alice.business_id)
    assert answer.body["user"]["role"] == "owner"


def test_a_person_changes_the_own_login_who_knows_the_password(alice: Client, port: int) -> None:
    person = people.hire(alice, "viewer")
    client, path = person.client(port), f"{LIST}/{person.user_id}"
    new = {"login_email": people.address(), "password": "a quite new phrase"}
    assert client.patch(path, new).status == 400
    assert client.patch(path, new | {"current_password": "wrong"}).status == 403
    assert person.login(port).status == 200
    assert client.patch(path, new | {"current_password": PASSWORD, "name": "Viewers may not"}).status == 403
    assert client.patch(path, new | {"current_password": PASSWORD}).status == 200
    assert client.get("/api/v1/auth/me").status == 401
    assert person.login(port).status == 401
    changed = replace(person, email=new["login_email"], password=new["password"])
    assert changed.login(port).body["user"]["user_id"] == person.user_id
    other = people.hire(alice, "viewer")
    body = {"password": "a quite new phrase", "current_password": PASSWORD}
    assert changed.client(port).patch(f"{LIST}/{other.user_id}", body).status == 403
    admin = people.hire(alice, "admin").client(port)
    assert admin.patch(f"{LIST}/{other.user_id}", body).status == 403
    assert other.login(port).status == 200


def test_no_answer_holds_a_password_or_its_hash(alice: Client) -> None:
    created = alice.post(LIST, {"email": people.address(), "password": PASSWORD})
    listed = alice.get(LIST)
    for answer in (created, listed):
        assert PASSWORD not in json.dumps(answer.body)
        assert "argon2" not in json.dumps(answer.body)


def test_a_login_made_elsewhere_gets_no_rights_here(master: Client, alice: Client, charlie: Client, port: int) -> None:
    planted = people.hire(charlie, "customer")
    joining = {"user_id": planted.user_id, "role": "admin"}
    assert alice.post(LIST, joining).status == 409
    assert alice.post(LIST, joining | {"role": "customer"}).status == 201
    assert alice.patch(f"{LIST}/{planted.user_id}", {"role": "admin"}).status == 409
    assert planted.login(port, business_id=alice.business_id).status in {401, 403}
    # The master knows them; when who made the login forgets them it ends, for whoever made it knows its password.
    viewer, path = people.hire(charlie, "viewer"), f"{LIST}/{planted.user_id}"
    assert alice.post(LIST, {"user_id": viewer.user_id}).status == 201
    assert master.patch(f"{LIST}/{viewer.user_id}?business_id={alice.business_id}", {"role": "viewer"}).status == 200
    for gone in (planted, viewer):
        assert charlie.delete(f"{LIST}/{gone.user_id}").status == 204
    assert (planted.login(port).status, viewer.login(port).status) == (401, 200)
    assert alice.patch(path, {"role": "admin"}).status == 200
    assert alice.patch(f"{LIST}/{viewer.user_id}", {"role": "customer"}).status == 200
    assert alice.patch(f"{LIST}/{viewer.user_id}", {"role": "admin"}).status == 409


def test_two_businesses_may_meet_a_person_at_once(alice: Client, charlie: Client) -> None:
    with ThreadPoolExecutor(2) as threads:
        for _ in range(10):
            body = {"user_id": str(uuid.uuid4()), "role": "viewer"}
            met = [threads.submit(client.post, LIST, body) for client in (alice, charlie)]
            assert [each.result().status for each in met] == [201, 201]
