"""Logging in and out: who may, what it answers to everybody else, and when a session ends."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.cookies import Morsel, SimpleCookie
from typing import Any

import pytest
from flask import Flask

from api import passwords
from api.settings import Settings
from tests.api import people, shop
from tests.api.people import LIST, LOGIN, PASSWORD
from tests.conftest import MASTER_KEY, Answer, Client, onboard

Sql = Callable[..., list[tuple[Any, ...]]]
ME = "/api/v1/auth/me"


@pytest.fixture(scope="module")
def port(settings: Settings, serve: Callable[[Flask], int]) -> int:
    """Where any number of people may log in."""
    return serve(people.generous(settings))


def _cookie(answer: Answer) -> Morsel[str]:
    return SimpleCookie(answer.headers["Set-Cookie"])["icmpSession"]


def _browser(port: int, person: people.Person, **headers: str) -> Client:
    """The person in a browser: no token in a header, but the cookie."""
    answer = person.login(port)
    cookie = {"Cookie": f"icmpSession={_cookie(answer).value}"}
    return Client(port, None, answer.body["user"]["business_id"], cookie | headers)


def _without_id(answer: Answer) -> dict[str, Any]:
    assert answer.error_code
    return {name: value for name, value in answer.body.items() if name != "request_id"}


def test_the_owner_of_an_onboarded_business_runs_it_without_any_key(master: Client) -> None:
    email = people.address()
    owner = {"email": email.upper(), "name": "Alice", "password": PASSWORD}
    made = onboard(master, "Books", owner=owner)
    answer = people.Person("", email).login(master.port)
    assert answer.status == 200, answer.body
    assert answer.body["user"]["role"] == "owner"
    assert (answer.body["user"]["business_id"], answer.body["user"]["name"]) == (made.business_id, "Alice")
    alice = Client(master.port, answer.body["token"], made.business_id)
    assert alice.get(ME).body == answer.body["user"]
    assert alice.post("/api/v1/agents", {"agent_name": "Robin", "is_default": True}).status == 201
    shop.furnish(alice, shop.ORDER_STATUS)
    assert alice.patch(f"/api/v1/businesses/{made.business_id}", {"website": "https://books.example"}).status == 200
    key = alice.post(f"/api/v1/businesses/{made.business_id}/api-keys", {"name": "frontend"})
    assert key.status == 201
    assert shop.write(Client(master.port, key.body["api_key"]), "Where is order 4411?").status == 200
    [conversation] = alice.get("/api/v1/conversations").body
    answered = alice.post(f"/api/v1/conversations/{conversation['conversation_id']}/messages", {"message": "Hello"})
    assert answered.status == 201
    assert alice.delete(f"/api/v1/businesses/{made.business_id}").status == 403


def test_the_cookie_counts_like_the_token_and_from_our_own_pages_only(alice: Client, port: int) -> None:
    person = people.hire(alice, "admin")
    cookie = _cookie(person.login(port))
    assert (cookie["httponly"], cookie["path"], cookie["domain"], cookie["max-age"]) == (True, "/", "", "43200")
    assert (cookie["samesite"], cookie["secure"]) == ("None", True)  # another site is allowed in these tests
    browser = _browser(port, person)
    assert browser.get(ME).body["role"] == "admin"
    change = {"agent_name": "Robin"}
    assert browser.post("/api/v1/agents", change, Origin="https://evil.example").status == 403
    assert browser.post("/api/v1/agents", change, Origin="https://shop.example").status == 201
    assert Client(port, headers={"Cookie": f"icmpSession={alice.key}"}).get("/api/v1/stages").status == 401
    assert Client(port, headers={"Cookie": f"icmpSession={MASTER_KEY}"}).get("/api/v1/businesses").status == 401
    token = {"Cookie": f"businessApiKey={cookie.value}"}
    assert Client(port, headers=token).get("/api/v1/stages").status == 401


def test_the_cookie_is_strict_without_other_sites_and_secure_behind_tls(
    alice: Client, settings: Settings, serve: Callable[[Flask], int]
) -> None:
    port = serve(people.generous(replace(settings, allowed_origins=frozenset())))
    person = people.hire(alice, "viewer")
    cookie = _cookie(person.login(port))
    assert (cookie["samesite"], cookie["secure"]) == ("Strict", "")
    tls = {"Host": "api.example", "X-Forwarded-Proto": "https"}
    answer = Client(port, headers=tls).post(LOGIN, {"email": person.email, "password": PASSWORD})
    assert (_cookie(answer)["samesite"], _cookie(answer)["secure"]) == ("Strict", True)


def test_another_site_can_neither_log_a_browser_in_nor_out(alice: Client, port: int) -> None:
    person = people.hire(alice, "viewer")
    body = {"email": person.email, "password": PASSWORD}
    refused = Client(port).post(LOGIN, body, Origin="https://evil.example")
    assert (refused.status, "Set-Cookie" in refused.headers) == (403, False)
    assert "RateLimit-Remaining" not in refused.headers
    assert Client(port).post(LOGIN, {"x": 1}, Origin="https://evil.example").status == 403
    assert Client(port).call("POST", LOGIN, raw=b"{", Origin="https://evil.example").status == 400
    browser = _browser(port, person)
    assert browser.call("POST", "/api/v1/auth/logout", Origin="https://evil.example").status == 403
    assert browser.get(ME).status == 200


def test_an_ended_login_does_not_lock_out_a_browser_that_also_has_a_key(alice: Client, port: int) -> None:
    person = people.hire(alice, "viewer")
    token = person.login(port).body["token"]
    both = Client(port, headers={"Cookie": f"icmpSession={token}; businessApiKey={alice.key}"})
    assert both.get(ME).body["role"] == "viewer"
    assert Client(port, token).call("POST", "/api/v1/auth/logout").status == 204
    assert both.get(ME).body["role"] is None


def test_every_wrong_login_gets_the_same_answer_after_the_same_work(
    alice: Client, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    person, customer = people.hire(alice, "admin"), alice.post(LIST, {"email": people.address()}).body
    checked: list[str] = []
    hasher = passwords._HASHER

    class Watched:
        """The hasher, watched."""

        def verify(self, stored: str, password: str) -> bool:
            checked.append(stored)
            return hasher.verify(stored, password)

    monkeypatch.setattr(passwords, "_HASHER", Watched())
    wrong = [
        {"email": person.email, "password": "another pass phrase"},
        {"email": person.email, "password": "another pass phrase", "business_id": alice.business_id},
        {"email": people.address(), "password": PASSWORD},
        {"email": customer["email"], "password": PASSWORD},
        {"email": "no address", "password": "x"},
    ]
    answers = [Client(port).post(LOGIN, body) for body in wrong]
    assert {(answer.status, answer.error_code) for answer in answers} == {(401, "UNAUTHORIZED")}
    assert len({str(_without_id(answer)) for answer in answers}) == 1
    assert not any("Set-Cookie" in answer.headers for answer in answers)
    assert len(checked) == len(wrong)
    # The costs stand before the salt: the same for all, so the same time.
    assert len({stored.rsplit("$", 2)[0] for stored in checked}) == 1


def test_customers_cannot_log_in(alice: Client, port: int) -> None:
    person = people.hire(alice, "customer")
    assert (person.login(port).status, person.login(port).error_code) == (403, "FORBIDDEN")
    assert alice.patch(f"{LIST}/{person.user_id}", {"role": "viewer"}).status == 200
    assert person.login(port).status == 200


def test_who_works_for_two_businesses_names_one(alice: Client, charlie: Client, master: Client, port: int) -> None:
    person = people.hire(alice, "admin", name="Bob")
    second = {"business_id": charlie.business_id, "user_id": person.user_id, "role": "viewer", "name": "Robert"}
    assert master.post(LIST, second).status == 201
    asked = person.login(port)
    assert (asked.status, asked.error_code) == (400, "INVALID_REQUEST")
    assert alice.business_id in asked.body["details"]
    assert charlie.business_id in asked.body["details"]
    guessed = Client(port).post(LOGIN, {"email": person.email, "password": "wrong pass phrase"})
    assert (guessed.status, alice.business_id in str(guessed.body)) == (401, False)
    here = person.login(port, business_id=alice.business_id.upper()).body["user"]
    there = person.login(port, business_id=charlie.business_id).body["user"]
    assert (here["role"], here["name"], there["role"], there["name"]) == ("admin", "Bob", "viewer", "Robert")
    assert person.login(port, business_id=str(uuid.uuid4())).status == 403
    at_charlies = person.client(port, business_id=charlie.business_id)
    assert at_charlies.get(f"/api/v1/stages?business_id={alice.business_id}").status == 403
    assert at_charlies.post("/api/v1/agents", {"agent_name": "Mine"}).status == 403


def test_logging_out_ends_this_session_alone(alice: Client, port: int) -> None:
    person = people.hire(alice, "viewer")
    first, second, browser = person.client(port), person.client(port), _browser(port, person)
    assert first.call("POST", "/api/v1/auth/logout").status == 204
    assert (first.get(ME).status, second.get(ME).status) == (401, 200)
    left = browser.call("POST", "/api/v1/auth/logout")
    assert (left.status, _cookie(left).value, _cookie(left)["max-age"]) == (204, "", "0")
    assert browser.get(ME).status == 401
    assert Client(port).call("POST", "/api/v1/auth/logout").status == 204


def test_a_session_ends_when_idle_and_after_twelve_hours(alice: Client, port: int, sql: Sql) -> None:
    person = people.hire(alice, "viewer").client(port)
    earlier = "UPDATE user_sessions SET last_seen_at = last_seen_at - make_interval(mins => %s) WHERE business_id = %s"
    for _ in range(2):
        sql(earlier, 29, alice.business_id)
        assert person.get(ME).status == 200
    sql(earlier, 31, alice.business_id)
    assert person.get(ME).status == 401
    busy = people.hire(alice, "viewer").client(port)
    hours = "SELECT extract(epoch FROM max(expires_at - created_at)) / 3600 FROM user_sessions WHERE business_id = %s"
    assert round(sql(hours, alice.business_id)[0][0], 2) == 12
    sql("UPDATE user_sessions SET expires_at = clock_timestamp() WHERE business_id = %s", alice.business_id)
    assert busy.get(ME).status == 401


def test_a_new_password_ends_all_sessions_in_every_business(
    alice: Client, charlie: Client, master: Client, port: int
) -> None:
    person = people.hire(alice, "admin")
    second = {"business_id": charlie.business_id, "user_id": person.user_id, "role": "viewer"}
    assert master.post(LIST, second).status == 201
    here = person.client(port, business_id=alice.business_id)
    there = person.client(port, business_id=charlie.business_id)
    path = f"{LIST}/{person.user_id}?business_id={alice.business_id}"
    assert master.patch(path, {"password": "a quite new phrase"}).status == 200
    assert (here.get(ME).status, there.get(ME).status) == (401, 401)
    assert person.login(port, business_id=alice.business_id).status == 401
    assert replace(person, password="a quite new phrase").login(port, business_id=alice.business_id).status == 200


def test_a_role_counts_as_it_is_now_and_losing_it_ends_the_session(alice: Client, port: int) -> None:
    person = people.hire(alice, "admin")
    client, path = person.client(port), f"{LIST}/{person.user_id}"
    assert client.post("/api/v1/agents", {"agent_name": "Robin"}).status == 201
    assert alice.patch(path, {"role": "viewer"}).status == 200
    assert client.post("/api/v1/agents", {"agent_name": "Kim"}).status == 403
    assert client.get("/api/v1/agents").status == 200
    assert alice.patch(path, {"role": "customer"}).status == 200
    assert client.get("/api/v1/agents").status == 401
    assert alice.patch(path, {"role": "admin"}).status == 200
    assert client.get("/api/v1/agents").status == 401
    again = person.client(port)
    assert alice.delete(path).status == 204
    assert again.get(ME).status == 401
    # The login opened nothing else, so it is gone, and its address is free.
    assert person.login(port).status == 401
    assert alice.post(LIST, {"email": person.email, "password": PASSWORD}).status == 201


def test_the_logins_of_a_deleted_business_leave_their_addresses(master: Client, port: int) -> None:
    business = onboard(master, "Passing", owner={"email": (email := people.address()), "password": PASSWORD})
    staff = people.hire(business, "viewer")
    assert master.delete(f"/api/v1/businesses/{business.business_id}").status == 204
    assert staff.login(port).status == 401
    again = onboard(master, "Coming", owner={"email": email, "password": PASSWORD})
    assert again.post(LIST, {"email": staff.email, "password": PASSWORD}).status == 201


def test_tokens_are_stored_as_hashes_and_shown_to_nobody_else(
    alice: Client, charlie: Client, port: int, sql: Sql
) -> None:
    token = people.hire(alice, "viewer").login(port).body["token"]
    [row] = sql("SELECT user_sessions::text FROM user_sessions WHERE business_id = %s", alice.business_id)
    assert token[10:] not in row[0]
    assert token.encode().hex() not in row[0]
    assert Client(port, token).get(f"/api/v1/businesses/{charlie.business_id}").status == 403
    assert Client(port, token[:-1] + ("y" if token.endswith("x") else "x")).get(ME).status == 401


def test_ten_tries_from_one_address_and_one_more_a_minute(
    alice: Client, settings: Settings, serve: Callable[[Flask], int]
) -> None:
    person, port = people.hire(alice, "viewer"), serve(people.behind_proxy(settings))
    here = {"X-Forwarded-For": f"2001:db8:{uuid.uuid4().hex[:4]}:{uuid.uuid4().hex[:4]}::1"}
    body = {"email": person.email, "password": PASSWORD}
    answers = [Client(port, headers=here).post(LOGIN, body) for _ in range(11)]
    assert [answer.status for answer in answers] == [200] * 10 + [429]
    assert answers[0].headers["RateLimit-Limit"] == "10"
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 60
    assert "address" in answers[-1].body["details"]
    # What cannot be read comes before what may not be asked.
    assert Client(port, headers=here).call("POST", LOGIN, raw=b"{").status == 400
    assert Client(port, headers=here).call("POST", LOGIN, raw=b"{}", Content_Type="text/plain").status == 415
    assert Client(port, headers=here).call("POST", LOGIN, raw=b"x" * (2**20 + 1)).status == 413
    elsewhere = {"X-Forwarded-For": f"2001:db8:{uuid.uuid4().hex[:4]}:{uuid.uuid4().hex[:4]}::1"}
    assert Client(port, headers=elsewhere).post(LOGIN, body).status == 200
    # Nor is it free.
    assert {Client(port, headers=elsewhere).call("POST", LOGIN, raw=b"{").status for _ in range(9)} == {400}
    assert Client(port, headers=elsewhere).post(LOGIN, body).status == 429


def test_logins_at_once_wait_for_each_other(alice: Client, port: int) -> None:
    person = people.hire(alice, "viewer")
    with ThreadPoolExecutor(8) as threads:
        assert [answer.status for answer in threads.map(lambda _: person.login(port), range(8))] == [200] * 8


def test_when_too_many_passwords_are_checked_at_once_the_next_is_sent_away(
    alice: Client, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = people.hire(alice, "viewer")
    monkeypatch.setattr(passwords, "PATIENCE_SECONDS", 0.05)
    with passwords._slot(), passwords._slot(), passwords._slot(), passwords._slot():
        refused = person.login(port)
        assert (refused.status, refused.error_code, refused.headers["Retry-After"]) == (503, "SERVER_ERROR", "1")
        assert alice.get("/api/v1/stages").status == 200
    assert person.login(port).status == 200


@pytest.mark.parametrize(
    "body", [{}, {"email": "a@b"}, {"email": 5, "password": "x"}, {"email": "a@b", "password": ""}]
)
def test_a_malformed_login_is_a_400(body: dict[str, Any], port: int) -> None:
    assert Client(port).post(LOGIN, body).status == 400
    assert Client(port).post(LOGIN, {"email": "a@b", "password": "x", "business_id": "no-uuid"}).status == 400


def test_a_key_is_nobody_in_particular(alice: Client, master: Client) -> None:
    nobody = {"user_id": None, "business_id": alice.business_id, "role": None, "name": None, "email": None}
    assert alice.get(ME).body == master.get(f"{ME}?business_id={alice.business_id}").body == nobody
    assert master.get(ME).status == 400
    assert Client(alice.port).get(ME).status == 401
