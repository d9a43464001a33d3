"""The cookie of business frontends: its attributes, its life and end, and from which sites it counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from http.cookies import Morsel, SimpleCookie
from ipaddress import ip_network
from typing import Any

import pytest
from flask import Flask

import app as application
import auth
from api.proxies import TrustedProxies
from api.settings import Settings
from tests.conftest import MASTER_KEY, Answer, Client

Sql = Callable[..., list[tuple[Any, ...]]]
Serve = Callable[[Flask], int]
BEHIND_TLS = {"Host": "api.example", "X-Forwarded-Proto": "https"}


def _save(client: Client, key: str | None, **headers: str) -> Answer:
    return client.post("/api/save-config", {"businessApiKey": key}, **headers)


def _cookie(answer: Answer) -> Morsel[str]:
    assert answer.status in {200, 204}, answer.body
    return SimpleCookie(answer.headers["Set-Cookie"])["businessApiKey"]


def _browser(client: Client, **headers: str) -> Client:
    """Somebody without a key, but with the cookie made from it."""
    token = _cookie(_save(Client(client.port), client.key)).value
    return Client(client.port, None, client.business_id, {"Cookie": f"businessApiKey={token}", **headers})


def _change(browser: Client, **headers: str) -> int:
    return browser.patch(f"/api/v1/businesses/{browser.business_id}", {"address": "1 Main St"}, **headers).status


def _look(browser: Client, **headers: str) -> int:
    return browser.get(f"/api/v1/businesses/{browser.business_id}", **headers).status


@pytest.fixture(scope="module")
def plain_port(settings: Settings, serve: Serve) -> int:
    """Of an app that knows no other site and no proxy."""
    return serve(application.create_app(replace(settings, allowed_origins=frozenset())))


@pytest.fixture(scope="module")
def proxied_port(settings: Settings, serve: Serve) -> int:
    """Of an app behind a proxy on this machine."""
    trusting = replace(settings, allowed_origins=frozenset(), trusted_proxies=(ip_network("127.0.0.0/8"),))
    return serve(application.create_app(trusting))


def test_a_key_becomes_a_cookie_that_works_in_its_place(alice: Client, anybody: Client) -> None:
    saved = _save(anybody, alice.key)
    name = alice.get(f"/api/v1/businesses/{alice.business_id}").body["business_name"]
    assert (saved.status, saved.body) == (200, {"business_id": alice.business_id, "business_name": name})
    assert str(alice.key) not in str(saved.headers)
    assert _look(_browser(alice)) == 200
    assert _change(_browser(alice)) == 200


def test_a_raw_key_in_the_cookie_works_too(alice: Client) -> None:
    raw = Client(alice.port, None, alice.business_id, {"Cookie": f"other=1; businessApiKey={alice.key}"})
    assert (_look(raw), _change(raw)) == (200, 200)


def test_the_cookie_is_strict_where_no_other_site_is_allowed(alice: Client, plain_port: int) -> None:
    cookie = _cookie(_save(Client(plain_port), alice.key))
    assert (cookie["httponly"], cookie["samesite"], cookie["secure"]) == (True, "Strict", "")
    assert (cookie["path"], cookie["domain"], cookie["max-age"]) == ("/", "", "43200")


def test_the_cookie_crosses_sites_only_where_another_one_is_allowed(alice: Client, anybody: Client) -> None:
    cookie = _cookie(_save(anybody, alice.key))
    assert (cookie["httponly"], cookie["samesite"], cookie["secure"]) == (True, "None", True)
    assert (cookie["path"], cookie["domain"]) == ("/", "")


def test_our_own_origin_is_no_other_site(alice: Client, settings: Settings, serve: Serve) -> None:
    ours = frozenset({"http://api.example", "http://api.example:3000"})
    port = serve(application.create_app(replace(settings, allowed_origins=ours)))
    assert _cookie(_save(Client(port), alice.key, Host="api.example"))["samesite"] == "Strict"


def test_behind_a_trusted_proxy_with_tls_the_cookie_is_secure(alice: Client, proxied_port: int) -> None:
    saved = _save(Client(proxied_port, headers=BEHIND_TLS), alice.key)
    assert (_cookie(saved)["secure"], _cookie(saved)["samesite"]) == (True, "Strict")
    assert "Strict-Transport-Security" in saved.headers
    without = _save(Client(proxied_port), alice.key)
    assert _cookie(without)["secure"] == ""
    assert "Strict-Transport-Security" not in without.headers


def test_nobody_else_is_believed_about_tls(alice: Client, plain_port: int) -> None:
    saved = _save(Client(plain_port, headers=BEHIND_TLS | {"Forwarded": "proto=https"}), alice.key)
    assert _cookie(saved)["secure"] == ""
    assert "Strict-Transport-Security" not in saved.headers


def test_behind_tls_our_own_pages_may_change_things(alice: Client, proxied_port: int) -> None:
    browser = _browser(Client(proxied_port, alice.key, alice.business_id), **BEHIND_TLS)
    assert _change(browser, Origin="https://api.example") == 200
    assert _change(browser, Origin="http://api.example") == 403


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "203.0.113.9, 10.0.0.2, 10.0.0.3", "203.0.113.9"),
        ("10.0.0.1", "198.51.100.7, 203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "198.51.100.7, nonsense, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "198.51.100.7,", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.3,10.0.0.2", "10.0.0.3"),
        ("::ffff:10.0.0.1", "2001:db8::7", "2001:db8::7"),
        ("203.0.113.9", "198.51.100.7", "203.0.113.9"),
        ("", "198.51.100.7", ""),
    ],
)
def test_the_clients_address_is_the_nearest_that_is_no_proxy_of_ours(
    peer: str, forwarded_for: str, client: str
) -> None:
    environ = {"REMOTE_ADDR": peer, "HTTP_X_FORWARDED_FOR": forwarded_for}
    TrustedProxies(lambda *_: [], (ip_network("10.0.0.0/8"),))(environ, lambda *_: lambda _: None)
    assert environ["REMOTE_ADDR"] == client


def test_a_wrong_key_sets_no_cookie(alice: Client, charlie: Client, anybody: Client) -> None:
    token = _cookie(_save(anybody, alice.key)).value
    for key in (MASTER_KEY, auth.make_key("biz"), f"{alice.key}x", "nonsense", token):
        answer = _save(anybody, key)
        assert (answer.status, answer.error_code) == (401, "UNAUTHORIZED")
        assert "Set-Cookie" not in answer.headers
    both = {"businessApiKey": alice.key, "businessId": charlie.business_id}
    refused = anybody.post("/api/save-config", both)
    assert (refused.status, "Set-Cookie" in refused.headers) == (403, False)
    named = anybody.post("/api/save-config", both | {"businessId": alice.business_id.upper()})
    assert named.status == 200


def test_clearing_ends_the_session_and_removes_the_cookie(alice: Client) -> None:
    browser, other = _browser(alice), _browser(alice)
    cleared = browser.call("POST", "/api/clear-config")
    cookie = _cookie(cleared)
    assert (cleared.status, cookie.value, cookie["max-age"], cookie["path"]) == (204, "", "0", "/")
    assert (cookie["samesite"], cookie["secure"], cookie["httponly"]) == ("None", True, True)
    assert _look(browser) == 401
    assert _look(other) == 200
    assert browser.call("POST", "/api/clear-config").status == 204
    assert Client(alice.port).call("POST", "/api/clear-config").status == 204
    assert alice.get("/api/v1/stages").status == 200


def test_an_idle_session_ends_after_thirty_minutes_and_use_puts_that_off(alice: Client, sql: Sql) -> None:
    browser = _browser(alice)
    earlier = "UPDATE sessions SET last_seen_at = last_seen_at - make_interval(mins => %s) WHERE business_id = %s"
    for _ in range(2):
        sql(earlier, 29, alice.business_id)
        assert _look(browser) == 200
    sql(earlier, 31, alice.business_id)
    assert _look(browser) == 401


def test_a_session_ends_twelve_hours_after_its_start_however_busy(alice: Client, sql: Sql) -> None:
    browser = _browser(alice)
    [(hours,)] = sql(
        "SELECT extract(epoch FROM expires_at - created_at) / 3600 FROM sessions WHERE business_id = %s",
        alice.business_id,
    )
    assert round(hours, 2) == 12
    sql("UPDATE sessions SET expires_at = clock_timestamp() WHERE business_id = %s", alice.business_id)
    assert _look(browser) == 401


def test_a_session_ends_with_its_key(alice: Client, sql: Sql) -> None:
    browser = _browser(alice)
    sql("UPDATE api_keys SET expires_at = clock_timestamp() WHERE business_id = %s", alice.business_id)
    assert _look(browser) == 401


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://shop.example", 200),
        ("http://shop.example", 403),
        ("https://shop.example:8443", 403),
        ("https://evil.shop.example", 403),
        ("https://shop.example.evil", 403),
        ("https://evil.example", 403),
        ("null", 403),
        ("", 403),
    ],
)
def test_with_a_cookie_changes_count_only_from_allowed_sites(origin: str, status: int, alice: Client) -> None:
    for cookie in (_browser(alice).headers["Cookie"], f"businessApiKey={alice.key}"):
        browser = Client(alice.port, None, alice.business_id, {"Cookie": cookie})
        assert _change(browser, Origin=origin) == status
        assert _look(browser, Origin=origin) == 200
    assert _change(alice, Origin=origin) == 200


def test_our_own_pages_and_programs_without_origin_may_change_things(alice: Client) -> None:
    browser = _browser(alice)
    assert _change(browser) == 200
    assert _change(browser, Origin=f"http://127.0.0.1:{alice.port}") == 200
    assert _change(browser, Sec_Fetch_Site="same-origin") == 200
    assert [_change(browser, Sec_Fetch_Site=site) for site in ("cross-site", "same-site")] == [403, 403]


def test_another_site_cannot_log_a_browser_out(alice: Client) -> None:
    browser = _browser(alice)
    assert browser.call("POST", "/api/clear-config", Origin="https://evil.example").status == 403
    assert _look(browser) == 200


def test_an_allowed_site_may_preflight_and_read_with_credentials(alice: Client, anybody: Client) -> None:
    site = {"Origin": "https://shop.example"}
    asked = {"Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": "content-type"}
    preflight = Client(anybody.port, headers=site | asked).call("OPTIONS", "/api/v1/stages")
    assert preflight.status in {200, 204}
    assert "PATCH" in preflight.headers["Access-Control-Allow-Methods"]
    assert "content-type" in preflight.headers["Access-Control-Allow-Headers"].lower()
    read = _browser(alice).get("/api/v1/stages", **site)
    refused = anybody.get("/api/v1/stages", **site)
    assert (read.status, refused.status) == (200, 401)
    for answer in (preflight, read, refused):
        assert answer.headers["Access-Control-Allow-Origin"] == "https://shop.example"
        assert answer.headers["Access-Control-Allow-Credentials"] == "true"
        assert "Origin" in answer.headers["Vary"]


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://shop.example.evil", "*"])
def test_other_sites_get_no_cors_headers(origin: str, alice: Client) -> None:
    answers = [
        alice.get("/api/v1/stages", Origin=origin),
        Client(alice.port).call("OPTIONS", "/api/v1/stages", Origin=origin, Access_Control_Request_Method="PATCH"),
    ]
    for answer in answers:
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]
        assert "Origin" in answer.headers["Vary"]


def test_every_answer_keeps_browsers_careful(anybody: Client, alice: Client) -> None:
    for answer in (alice.get("/api/v1/stages"), anybody.get("/api/v1/stages"), anybody.get("/nowhere")):
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
