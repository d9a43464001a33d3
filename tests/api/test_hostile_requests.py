"""Request lines, headers, queries and cookies made to get somewhere else, under gunicorn as in production."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.api import gunicorn_server, shop
from tests.api.gunicorn_server import Served
from tests.conftest import Client

FIELDS = {"error_code", "message", "details", "remediation", "request_id"}
STAGES = "/api/v1/stages"


@pytest.fixture(scope="module")
def served(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The app under gunicorn."""
    with gunicorn_server.running(tmp_path_factory.mktemp("served"), database_url) as server:
        yield server


def _head(line: bytes, *headers: str) -> bytes:
    return (
        line + "".join(f"\r\n{header}" for header in ("Host: icmp.example", *headers)).encode("latin-1") + b"\r\n\r\n"
    )


def _get(served: Served, path: str | bytes, *headers: str) -> tuple[int, dict[str, str], str]:
    """Status, headers and text of a GET of exactly this path."""
    raw = path if isinstance(path, bytes) else path.encode("latin-1")
    answer = served.exchange(_head(b"GET " + raw + b" HTTP/1.1", *headers))
    head, _, body = answer.decode().partition("\r\n\r\n")
    lines = head.split("\r\n")
    return int(lines[0].split()[1]), dict(line.split(": ", 1) for line in lines[1:]), body


@pytest.mark.parametrize(
    "path",
    [
        "//api/v1/stages", "/api//v1/stages", "/api/v1//stages", "/api/v1/stages/", "/api/v1/./stages",
        "/api/v1/nowhere/../stages", "/healthz/../api/v1/stages", "/docs/../api/v1/stages", "/%2e%2e/api/v1/stages",
        "/api/v1/stages;x=1", "/api/v1;x/stages", "/api/v1/stages%00", "/api/v1/stages%2f", "/api%2fv1%2fstages",
        "/API/V1/STAGES", "/api/v1/stages%20", "/api/v1/stages.", "/api/v1/stages..", "/api/v1/stages.json",
        "/api/v1/stages%23", "/api/v1/%73tages", "/api/v1/stages%c0%af", "/api/v1/stages\xff", "/api\\v1\\stages",
        "http://icmp.example/api/v1/stages", "http://evil.example//api/v1/stages", "/..%5c..%5cetc%5cpasswd",
        "/docs/%2e%2e/%2e%2e/app.py", "/docs/..%2f..%2fapp.py", "/docs//etc/passwd", "/" + "a/" * 1500,
        f"/api/v1/stages/{'a' * 3000}", "/%", "/%zz", "/?%", "*", "/.env", "/.git/config",
    ],
)  # fmt: skip
def test_no_form_of_a_path_gets_past_the_door(path: str, served: Served) -> None:
    status, headers, body = _get(served, path)
    assert status in {400, 401, 404}, body
    told = json.loads(body)
    assert set(told) == FIELDS
    assert headers["X-Request-ID"] == told["request_id"]
    assert "Location" not in headers


@pytest.mark.parametrize(
    "header",
    [
        "SCRIPT_NAME: /api", "SCRIPT-NAME: /healthz", "PATH_INFO: /healthz", "Path-Info: /healthz",
        "X-Original-URL: /healthz", "X-Rewrite-URL: /healthz", "X-HTTP-Method-Override: OPTIONS", "X-Method: HEAD",
        "X-Forwarded-Prefix: /healthz", "X-Forwarded-Host: evil.example", "X-Forwarded-For: 127.0.0.1",
        "Forwarded: for=127.0.0.1", "REMOTE_ADDR: 127.0.0.1", "REMOTE_USER: admin", "AUTHORIZATION_: Bearer x",
        "HTTP_AUTHORIZATION: Bearer x", "Authorization: Basic YTpi", "Authorization: Bearer", "Authorization: \xff",
        "Authorization: Bearer icmp_biz_live_'or'1'='1", "Cookie: businessApiKey", "Cookie: =;;=;businessApiKey=",
        "Cookie: businessApiKey=\"\\000\"", "Cookie: businessApiKey=%00; businessApiKey=x", "Cookie: \xff\xfe",
        "Cookie: businessApiKey=" + "a" * 8000, "Cookie: " + "; ".join(f"c{n}=x" for n in range(900)),
        "Accept: */*;q=\xff", "Accept-Encoding: \x01", "Range: bytes=0-99999999999", "If-None-Match: *",
        "Connection: close, Authorization", "Upgrade: h2c", "TE: trailers", "X-Request-ID: a\tb",
    ],
)  # fmt: skip
def test_no_header_gets_past_the_door(header: str, served: Served) -> None:
    status, headers, body = _get(served, STAGES, header)
    assert status in {400, 401}, body
    assert set(json.loads(body)) == FIELDS
    assert headers["X-Request-ID"] == json.loads(body)["request_id"]
    assert "evil.example" not in str(headers)


def test_a_key_in_two_headers_or_two_cookies_is_no_way_to_be_two_people(
    served: Served, alice: Client, charlie: Client
) -> None:
    keys = [f"Authorization: Bearer {each.key}" for each in (alice, charlie)]
    assert _get(served, STAGES, *keys)[0] in {400, 401}
    cookies = f"Cookie: businessApiKey={alice.key}; businessApiKey={charlie.key}"
    status, _, body = _get(served, f"/api/v1/businesses/{alice.business_id}", cookies)
    assert status == 200, "the first one counts"
    assert _get(served, f"/api/v1/businesses/{charlie.business_id}", cookies)[0] == 403
    assert charlie.business_id not in body


@pytest.mark.parametrize(
    "method", ["TRACE", "CONNECT", "PROPFIND", "get", "DELETE", "HEAD", "OPTIONS", "PATCH", "DEBUG", "M-SEARCH"]
)
def test_no_method_does_what_another_one_may_not(method: str, served: Served) -> None:
    answer = served.exchange(_head(f"{method} /api/v1/businesses HTTP/1.1".encode()))
    status = int(answer.split()[1])
    assert status in {400, 401, 404, 405} or (method, status) == ("OPTIONS", 200)
    assert b"Authorization" not in answer.partition(b"\r\n\r\n")[2], "TRACE would read headers to scripts"


@pytest.mark.parametrize(
    "query",
    [
        "limit=1&limit=2", "business_id=x&business_id=y", "limit[]=1", "limit[$gt]=1", "limit=1%00", "limit=1%0d%0aX:y",
        "cursor=../../etc/passwd", "cursor=%0d%0aX-Injected:%20y", "%0d%0aX-Injected=y", "limit=%FF%FE", "%ff=1",
        "offset=99999999999999999999", "offset=-1", "limit=1e1", "limit=0x1", "limit=%E2%88%9E", "a" * 3000 + "=1",
        "&".join(f"p{number}=1" for number in range(400)),
    ],
)  # fmt: skip
def test_no_query_gets_anything_but_a_400(query: str, served: Served, alice: Client) -> None:
    status, headers, body = _get(served, f"{STAGES}?{query}", f"Authorization: Bearer {alice.key}")
    assert (status, json.loads(body)["error_code"]) == (400, "INVALID_REQUEST")
    assert "X-Injected" not in headers


def test_no_answer_names_the_software_that_serves(served: Served, alice: Client) -> None:
    for path in ("/", "/docs/", STAGES, "/nowhere", "/%"):
        answer = served.exchange(_head(f"GET {path} HTTP/1.1".encode(), f"Authorization: Bearer {alice.key}"))
        head, _, _ = answer.lower().partition(b"\r\n\r\n")
        assert [word for word in (b"gunicorn", b"werkzeug", b"python", b"nginx") if word in head] == []


def test_nothing_that_is_sent_becomes_a_header_of_the_answer(served: Served, alice: Client) -> None:
    behind = replace(alice, port=served.port)
    shop.furnish(behind, shop.SMALL_TALK)
    injected = "x\r\nX-Injected: y\r\nSet-Cookie: a=b"
    user_id = str(uuid.uuid4())
    template_id = behind.post(
        "/api/v1/templates", {"template_id": injected, "kind": "response_generation", "text": "x"}
    )
    assert template_id.status == 400
    answers = [
        shop.write(behind, injected, user_id, session_id=injected),
        behind.get(f"/api/v1/conversations?limit=1&session_id={'x%0d%0aX-Injected:%20y'}"),
        behind.post("/api/v1/agents", {"agent_name": injected}),
        behind.post("/api/v1/orders", {"order_number": injected, "user_id": user_id, "items": [], "currency": "EUR"}),
    ]
    for answer in answers:
        assert not {"X-Injected", "Set-Cookie"} & set(answer.headers), answer.body
        assert "\r" not in str(answer.headers)
    for name in ("X-Request-ID", "Origin", "Idempotency-Key"):
        status, headers, _ = _get(served, "/healthz", f"{name}: x%0d%0aX-Injected: y")
        assert status == 200
        assert "X-Injected" not in headers
        assert "x%0d%0a" not in str(headers)


def test_a_host_that_is_none_does_not_get_into_links(served: Served, alice: Client) -> None:
    for name in ("a", "b"):
        assert alice.post("/api/v1/agents", {"agent_name": name}).status == 201
    line = b"GET /api/v1/agents?limit=1 HTTP/1.1"
    for host in ('icmp.example"><script>', "a b", "icmp.example/../evil", "evil.example@icmp.example", "[::1", "x:y"):
        sent = line + f"\r\nHost: {host}\r\nAuthorization: Bearer {alice.key}\r\n\r\n".encode()
        head, _, _ = served.exchange(sent).decode().partition("\r\n\r\n")
        links = [line for line in head.split("\r\n") if line.startswith("Link: ")]
        assert links
        assert [line for line in links if host in line or "script" in line or "evil" in line] == []


SCRIPT = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>${7*7}<%= 7*7 %>"


def test_stored_script_text_comes_back_as_json_and_nothing_else(served: Served, alice: Client) -> None:
    behind = replace(alice, port=served.port)
    shop.furnish(behind, shop.stage("talk", fixed_text=SCRIPT))
    reply = shop.write(behind, SCRIPT, metadata={"a": SCRIPT})
    assert behind.post("/api/v1/agents", {"agent_name": SCRIPT[:80]}).status == 201
    conversation = f"/api/v1/conversations/{reply.body['conversation_id']}/messages"
    answers = [reply, behind.get(conversation), behind.get("/api/v1/agents"), behind.get(STAGES)]
    for answer in answers:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert {message["message_content"] for message in answers[1].body} == {SCRIPT}
    for path in (f"/docs/?x={'%3Cscript%3Ealert(1)%3C/script%3E'}", "/docs/%3Cscript%3E", "/%3Cscript%3Ealert(1)"):
        status, headers, body = _get(served, path)
        assert "<script>alert" not in body
        assert status == 200 or headers["Content-Type"] == "application/json"


def test_template_text_of_tenants_is_never_run(served: Served, alice: Client) -> None:
    behind = replace(alice, port=served.port)
    refused = ["{{ business.__class__ }}", "{{ message.__init__.__globals__ }}", "{{ config }}", "{{ 7 * 7 }}"]
    refused += ["{{ self }}", "{{ request.application }}", "{{{{ message }}}}", "{{ message|attr('x') }}", "{{ ''.x }}"]
    for number, text in enumerate(refused):
        template = {"template_id": f"t{number}", "kind": "response_generation", "text": text}
        answer = behind.post("/api/v1/templates", template)
        if answer.status == 201:
            # A path that leads into no data is an empty place, never an attribute of ours.
            prompt = {"prompt": {"template_id": f"t{number}"}}
            [stage_id] = shop.furnish(behind, shop.stage(f"s{number}", response_generation=prompt))
            tried = behind.post(f"{STAGES}/{stage_id}/try", {"message": "Hello"})
            assert tried.status == 200
            assert not re.search("<class|<function|object at 0x", json.dumps(tried.body)), text
        else:
            assert (answer.status, answer.error_code) == (400, "INVALID_REQUEST"), text
    flat = {"stage_name": "plain", "stage_type": "information", "stage_description": "Anything."}
    plain = "{% for x in y %}{0.__class__} %(a)s ${HOME} `id` $(id) #{7*7} {message}"
    [stage_id] = shop.furnish(behind, {**flat, "response_generation_prompt": plain})
    tried = behind.post(f"{STAGES}/{stage_id}/try", {"message": "{{ business.business_name }}"})
    assert plain in json.dumps(tried.body, ensure_ascii=False), "what is no variable is text"
    [prompt] = [step["prompt"] for step in tried.body["steps"] if step["kind"] == "response_generation"]
    assert "{{ business.business_name }}" in json.dumps(prompt), "a value is not looked at again"
