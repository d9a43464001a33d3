"""What a busy and broken server logs, here and elsewhere, holds no key, password, message or contact data."""

from __future__ import annotations

import base64
import json
import urllib.parse
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from tests.api import faulty_app, gunicorn_server, shop
from tests.api.shop import Thinker
from tests.conftest import ENVIRONMENT, MASTER_KEY, Client, onboard
from tests.nlp import model_server, web_server
from tests.waiting import until

WORDS = "zanzibar-\"words\" & schöne 'Grüße'"
PHONE = "+44 20 7946 0999"
CONTACT = {"email": "zelda.private@example.com", "name": "Zelda Quirk", "password": "zebra pass phrase"}
METHOD = "ZANZIBAR"
API_CALL_SECRET = "hush-hush-of-the-tenant"
SETTINGS = {
    "ICMP_API_KEY": MASTER_KEY,
    "ENCRYPTION_KEY": ENVIRONMENT["ENCRYPTION_KEY"].partition(":")[2],
    "OPENAI_API_KEY": "sk-planted-0123456789abcdef",
    "METRICS_KEY": "planted-metrics-key-0123456789-0123456789",
    "LOG_HTTP_AUTHORIZATION": "ApiKey cGxhbnRlZC1mb3ItZWxhc3RpY3NlYXJjaA==",
}


@dataclass(frozen=True)
class Watched:
    """A server with everything it talks to, its log and what it ships."""

    served: gunicorn_server.Served
    elk: web_server.Server
    web: web_server.Server
    thinker: Thinker

    def shipped(self) -> str:
        """Every line that arrived elsewhere."""
        return "\n".join(line for seen in self.elk.seen for line in seen.body.decode().splitlines()[1::2])


@pytest.fixture(scope="module")
def log_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the log is written."""
    return tmp_path_factory.mktemp("secrets")


@pytest.fixture(scope="module")
def watched(database_url: str, log_folder: Path) -> Iterator[Watched]:
    """The app with broken views under gunicorn, as talkative as it can be; it has ended when the fixture has."""
    with web_server.running() as elk, web_server.running() as web, model_server.running() as model:
        elk.tells({"errors": False})
        environment = SETTINGS | {
            "ENCRYPTION_KEY": ENVIRONMENT["ENCRYPTION_KEY"],
            "LOG_LEVEL": "DEBUG",
            "LOG_HTTP_URL": f"http://{elk.host}",
            "OPENAI_BASE_URL": model.url,
            "OPENAI_MODEL": "m-1",
            "MODEL_CALL_TIMEOUT_S": "2",
            "API_CALL_ALLOWED_HOSTS": web.host,
        }
        app = f"{faulty_app.__name__}:create_app()"
        with gunicorn_server.running(
            log_folder, database_url, application=app, WEB_CONCURRENCY="1", **environment
        ) as served:
            thinker = Thinker(Flask(__name__), model, Client(served.port, MASTER_KEY))
            yield Watched(served, elk, web, thinker)


def _forms(secret: str) -> set[str]:
    """A secret as it stands, and as JSON, URLs, Python, hex and base64 show it."""
    raw = secret.encode()
    forms = {secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1]}
    forms |= {json.dumps(form)[1:-1] for form in forms}
    forms |= {urllib.parse.quote(secret), urllib.parse.quote_plus(secret), repr(raw)[2:-1], raw.hex()}
    for before, skipped in ((0, 0), (1, 2), (2, 3)):  # base64 differs by where in three bytes a text begins
        encoded = base64.b64encode(b"\0" * before + raw).decode().rstrip("=")
        whole = (before + len(raw)) * 8 // 6  # the last character may depend on what follows
        forms |= {encoded[skipped:whole], encoded[skipped:whole].replace("+", "-").replace("/", "_")}
    return forms


def _found(secrets: list[str], text: str) -> list[str]:
    return [f"{secret}: {form}" for secret in secrets for form in _forms(secret) if form in text]


def _talk(watched: Watched, alice: Client) -> None:
    """The model answers well, badly and not at all, and repeats what the customer said."""
    shop.furnish(alice, shop.stage("welcome", f"When they say {WORDS}.", fallback_text=WORDS))
    model = watched.thinker.server
    quoting = f"you said {WORDS} {PHONE} with sk-planted-0123456789abcdef"
    for behaviour, statuses in (
        (shop.says(quoting), {200}),
        (model_server.fails(400, quoting), {200, 503}),
        (model_server.fails(401, quoting), {200, 503}),
        (model_server.fails(500, quoting), {200, 503}),
        (model_server.answers(quoting.encode()), {200, 503}),
        (model_server.resets, {200, 503}),
        (model_server.stalls, {200, 503, 504}),
    ):
        model.script = [behaviour]
        said = shop.write(alice, f"I am {CONTACT['name']}, {PHONE}. {WORDS}")
        assert said.status in statuses, said.body
    path = f"/api/v1/conversations/{said.body['conversation_id']}/messages"
    assert alice.post(path, {"message": WORDS}).status == 201
    assert alice.get(path).status == 200


def _look_up(watched: Watched, alice: Client) -> None:
    """A tenant's server is called with a secret, and answers in every way."""
    url = f"http://{watched.web.host}/orders/{{{{ data.order_number }}}}"
    config = {"url": url, "secret_headers": {"X-Key": API_CALL_SECRET}, "query": {"who": CONTACT["name"]}}
    shop.furnish(alice, shop.ORDER_STATUS | {"data_retrieval": {"method": "api_call", "config": config}})
    watched.thinker.script(
        stage_selection=shop.picks("order_status"),
        data_extraction=shop.finds(order_number="4411"),
        response_generation=shop.says(WORDS),
    )
    for behaviour in (
        model_server.answers({"secret": API_CALL_SECRET}),
        model_server.fails(500, API_CALL_SECRET),
        model_server.answers(API_CALL_SECRET.encode()),
        model_server.resets,
    ):
        watched.web.plays(behaviour)
        assert shop.write(alice, f"Where is order 4411? {WORDS}").status == 200
        assert watched.web.seen[0].headers["x-key"] == API_CALL_SECRET


def _log_in(alice: Client, owner: dict[str, str]) -> list[str]:
    """Right, wrong and forged; the secrets that came back."""
    anybody = Client(alice.port)
    right = {"email": owner["email"], "password": owner["password"]}
    logged_in = anybody.post("/api/v1/auth/login", right)
    assert logged_in.status == 200
    for wrong in ({"password": f"{WORDS} or so"}, {"email": "zelda.private@example.org"}, {"email": WORDS}):
        assert anybody.post("/api/v1/auth/login", right | wrong).status in (400, 401)
    saved = anybody.post("/api/save-config", {"businessApiKey": alice.key})
    cookie = saved.headers["Set-Cookie"].partition(";")[0].partition("=")[2]
    event: dict[str, Any] = {"event_id": str(uuid.uuid4()), "business_id": alice.business_id, "event_type": "view"}
    event |= {"event_timestamp": "2026-11-23T09:30:00Z", "event_data": {"said": WORDS, "to": PHONE}}
    assert anybody.post("/api/v1/events", event).status == 201
    return [str(logged_in.body["token"]), cookie]


def _misplace(served: gunicorn_server.Served, alice: Client, secret: str) -> None:
    """A secret everywhere where none belongs."""
    anybody = Client(served.port)
    quoted = urllib.parse.quote(secret)
    header = secret.encode().decode("latin-1")
    everywhere = {"User-Agent": header, "Referer": f"https://a.example/{quoted}", "Origin": header}
    loud = Client(served.port, alice.key, alice.business_id, everywhere | {"X-Request-ID": header, "Cookie": header})
    assert loud.get(f"/api/v1/stages?colour={quoted}").status == 400
    assert loud.get(f"/api/v1/stages/{quoted}?{quoted}").status == 400
    assert loud.get(f"/{quoted}").status == 404
    assert loud.call(METHOD, "/api/v1/stages").status == 405
    assert loud.post("/api/v1/stages", {secret: secret}).status == 400
    assert loud.post("/api/v1/businesses", {"owner_id": secret, "business_name": secret}).status == 403
    assert loud.call("POST", "/api/v1/stages", raw=f'{{"{secret}'.encode()).status == 400
    for refused in (header, f"Basic {header}", f"Bearer x{header}"):
        assert anybody.get("/api/v1/stages", Authorization=refused).status == 401
    assert anybody.get("/metrics", Authorization=f"Bearer {header}x").status == 401
    assert anybody.get("/api/v1/stages", Cookie=f"businessApiKey=x{quoted}").status == 401
    assert anybody.post("/api/save-config", {"businessApiKey": f"x{secret}"}).status == 401
    for broken in (
        f"GET /{secret} nonsense",
        f"GET / HTTP/1.1\r\n{secret}\r\n",
        f"GET / HTTP/1.1\r\nA B: {secret}\r\n",
    ):
        assert b" 400 " in served.exchange(f"{broken}\r\n\r\n".encode())


def _break(served: gunicorn_server.Served, secret: str) -> None:
    survivors = {"thread", "garbage", "warning", "bad-format"}
    for kind in faulty_app.FAULTS:
        broken = Client(served.port).post(f"/break/{kind}", {"secret": secret})
        assert broken.status in ({200} if kind in survivors else {500, 503}), (kind, broken.body)


@pytest.fixture(scope="module")
def secrets(watched: Watched) -> list[str]:
    """Everything private, after it was said everywhere a caller, a model or a fault can put it."""
    owner = CONTACT | {"email": f"{uuid.uuid4().hex[:8]}.{CONTACT['email']}"}
    alice = onboard(watched.thinker.master, "Private", owner=owner, phone_number=PHONE)
    made = [str(alice.key), *_log_in(alice, owner)]
    _look_up(watched, alice)
    _talk(watched, alice)  # last: after so many faults the model is left alone for a while
    private = [WORDS, METHOD, PHONE, *CONTACT.values(), API_CALL_SECRET]
    for secret in (WORDS, str(alice.key), MASTER_KEY, CONTACT["email"]):
        _misplace(watched.served, alice, secret)
        _break(watched.served, secret)
    for key in (*made, *SETTINGS.values()):
        if key != SETTINGS["ENCRYPTION_KEY"]:  # it has no pattern, and no code of ours holds it as text
            assert Client(watched.served.port).post("/log", {"secret": key}).status == 200
    return [*private, *made, *SETTINGS.values()]


def test_the_search_finds_a_secret_in_every_form() -> None:
    for text in ("say zebra pass phrase!", "zebra%20pass%20phrase", b"zebra pass phrase".hex()):
        assert _found([CONTACT["password"]], text)
    for before in ("", "a", "ab", "abc"):
        hidden = base64.b64encode(f"{before}{CONTACT['password']} and more".encode()).decode()
        assert _found([CONTACT["password"]], f'{{"told": "{hidden}"}}')
    assert _found([WORDS], json.dumps({"inside": json.dumps({"said": WORDS})}))
    assert not _found([CONTACT["password"]], "zebra pass")


def test_a_busy_and_broken_log_holds_nothing_private(watched: Watched, secrets: list[str]) -> None:
    lines = watched.served.lines()  # every line is JSON, whoever wrote it
    sources = {line["source"] for line in lines}
    assert {"icmp.request", "icmp.uncaught", "api.errors", "gunicorn.error", "some.library"} <= sources
    assert sum(line.get("error_code") == "SERVER_ERROR" for line in lines) >= 20
    told = [line for line in lines if "Invalid request from ip=127.0.0.1" in line["message"]]
    assert len({line["request_id"] for line in told} - {None}) == len(told) >= 12
    assert _found(secrets, watched.served.log.read_text(encoding="utf-8")) == []


def test_what_is_shipped_is_the_log_and_holds_nothing_private_either(watched: Watched, secrets: list[str]) -> None:
    assert Client(watched.served.port).get("/", X_Request_ID="last-of-all").status == 200
    until(lambda: "last-of-all" in watched.shipped())
    assert _found(secrets, watched.shipped()) == []
    here = {line for line in watched.served.log.read_text(encoding="utf-8").splitlines() if '"icmp.request"' in line}
    there = {line for line in watched.shipped().splitlines() if '"icmp.request"' in line}
    assert here == there
    assert len(there) > 100
    assert {seen.headers["authorization"] for seen in watched.elk.seen} == {SETTINGS["LOG_HTTP_AUTHORIZATION"]}


def test_a_stream_is_logged_when_its_last_piece_has_left(watched: Watched) -> None:
    assert Client(watched.served.port).get("/stream", X_Request_ID="stream-1").body == "first\nlast\n"
    until(lambda: "stream-1" in watched.served.log.read_text(encoding="utf-8"))
    [line] = [line for line in watched.served.lines() if line.get("request_id") == "stream-1"]
    assert line["duration_ms"] >= 300
