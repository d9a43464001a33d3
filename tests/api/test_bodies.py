"""Hostile and broken input: every one gets a clear 400, 413 or 415, and never a 500."""

from __future__ import annotations

import base64
import json
import socket
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from api import bodies
from api.errors import InvalidRequest
from tests.api import gunicorn_server
from tests.conftest import Client

EVENTS = "/api/v1/events"


@pytest.fixture(scope="module")
def served(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[gunicorn_server.Served]:
    """The app under gunicorn."""
    with gunicorn_server.running(tmp_path_factory.mktemp("served"), database_url) as server:
        yield server


def _event(owner: Client, **fields: Any) -> dict[str, Any]:
    required = {"event_id": str(uuid.uuid4()), "business_id": owner.business_id, "event_type": "test"}
    return required | {"event_timestamp": "2026-11-23T09:30:00Z", **fields}


def _raw_event(owner: Client, data: bytes) -> bytes:
    """An event whose `event_data` is written as it is."""
    return json.dumps(_event(owner))[:-1].encode() + b', "event_data": ' + data + b"}"


def test_text_of_every_script_comes_back_as_it_was_sent(alice: Client) -> None:
    data: dict[str, Any] = {
        "text": 'Zoë — 你好 😀 \u2028 \ufffe \x01 \\ "',
        "": [1, -2.5, 0.1, 10**38, True, None, {"a": []}],
    }
    assert alice.post(EVENTS, _event(alice, event_data=data)).status == 201
    assert alice.get(EVENTS).body[0]["event_data"] == data
    unescaped = json.dumps(_event(alice, event_data=data), ensure_ascii=False).encode()
    assert alice.call("POST", EVENTS, raw=unescaped, Content_Type="application/json; charset=utf-8").status == 201


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b'{"a": "\\u0000"}', "NUL"),
        (b'{"\\u0000": 1}', "NUL"),
        (b'{"a": ["\\ud83d"]}', "surrogate"),
        (b'{"\\udc00": 1}', "surrogate"),
        (b'{"a": 1, "a": 1}', "'a' stands twice"),
        (b'{"b": {"\\ud800": 1, "\\ud800": 2}}', "stands twice"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": ' + b"9" * 41 + b"}", "40 digits"),
        (b'{"a": -' + b"9" * 100_000 + b"}", "40 digits"),
        (b'{"a": 01}', "not JSON"),
        (b'{"a": "tab\there"}', "not JSON"),
        (b"{'a': 1}", "not JSON"),
        (b'{"a": 1,}', "not JSON"),
        (b'{"a": "\xff"}', "not UTF-8 at byte"),
        (b'{"a": "\xed\xa0\x80"}', "not UTF-8 at byte"),
        (b'{"a": 1}} {"b": 2', "not JSON"),
    ],
)
def test_what_json_or_the_database_cannot_hold_is_a_400(data: bytes, fault: str, alice: Client) -> None:
    answer = alice.call("POST", EVENTS, raw=_raw_event(alice, data))
    assert (answer.status, answer.error_code) == (400, "INVALID_REQUEST")
    assert fault in answer.body["details"]
    assert answer.body["remediation"]


@pytest.mark.parametrize(
    "raw", [b"", b" ", b"\xef\xbb\xbf{}", b"{", b"\x00", b'"', b"nul", '{"a": 1}'.encode("utf-16")]
)
def test_a_body_that_is_no_json_is_a_400(raw: bytes, anybody: Client) -> None:
    answer = anybody.call("POST", EVENTS, raw=raw)
    assert (answer.status, answer.error_code) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize("value", [None, True, 5, "text", [], [[]], ["a"], {}])
def test_json_of_another_kind_is_a_400_that_says_what_was_expected(value: Any, alice: Client) -> None:
    for path in ("/api/v1/stages", "/api/save-config"):
        answer = alice.call("POST", path, raw=json.dumps(value).encode())
        assert (answer.status, answer.error_code) == (400, "INVALID_REQUEST")
        assert value == {} or "expected object" in answer.body["details"]


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
@pytest.mark.parametrize("core", [b"1", b"[]", b"{}"])
def test_thirty_two_levels_pass_and_one_more_does_not(opening: bytes, closing: bytes, core: bytes) -> None:
    own = 0 if core == b"1" else 1
    deepest = opening * (32 - own) + core + closing * (32 - own)
    assert bodies.parse(deepest) == json.loads(deepest)
    with pytest.raises(InvalidRequest, match="deeper than 32"):
        bodies.parse(opening + deepest + closing)


def test_endless_depth_is_a_400(alice: Client) -> None:
    for raw in (b"[" * 1_000_000, b'{"a":' * 200_000, b"[" * 500_000 + b"]" * 500_000):
        answer = alice.call("POST", "/api/v1/stages", raw=raw)
        assert (answer.status, answer.error_code) == (400, "INVALID_REQUEST")


def test_a_name_sent_twice_among_very_many_is_found_in_no_time() -> None:
    names = ",".join(f'"{number}":1' for number in range(200_000))
    with pytest.raises(InvalidRequest, match="'199999' stands twice"):
        bodies.parse(f'{{{names},"199999":1}}'.encode())


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_another_content_type_is_a_415(content_type: str, alice: Client) -> None:
    answer = alice.call("POST", EVENTS, raw=b"{}", Content_Type=content_type)
    assert (answer.status, answer.error_code) == (415, "UNSUPPORTED_MEDIA_TYPE")


def test_a_body_may_have_one_mebibyte_and_events_four(alice: Client) -> None:
    event = _event(alice, event_data={"text": ""})
    room = 4 * 2**20 - len(json.dumps([event]))
    full = json.dumps([event | {"event_data": {"text": "x" * room}}]).encode()
    assert alice.call("POST", EVENTS, raw=full).status == 201
    stage = b'{"stage_description": "' + b"x" * (2**20 - 25) + b'"}'
    assert (len(full), len(stage)) == (4 * 2**20, 2**20)
    assert alice.call("POST", "/api/v1/stages", raw=stage).status == 400
    for path, raw in ((EVENTS, full + b" "), ("/api/v1/stages", stage + b" ")):
        answer = alice.call("POST", path, raw=raw)
        assert (answer.status, answer.error_code) == (413, "PAYLOAD_TOO_LARGE")


def _head(*headers: str, path: str = EVENTS) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: icmp.example", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


CHUNKED = "Transfer-Encoding: chunked"
BROKEN = {
    "chunk broken off": _head(CHUNKED) + b'20\r\n{"a":',
    "no last chunk": _head(CHUNKED) + b"2\r\n{}\r\n",
    "chunk size is no number": _head(CHUNKED) + b"zz\r\n{}\r\n0\r\n\r\n",
    "chunk without its end": _head(CHUNKED) + b"2\r\n{}XX0\r\n\r\n",
    "negative chunk": _head(CHUNKED) + b"-2\r\n{}\r\n0\r\n\r\n",
    "shorter than announced": _head("Content-Length: 50") + b'{"a":',
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_body_that_breaks_off_is_a_400_under_gunicorn(case: str, served: gunicorn_server.Served) -> None:
    answer = served.exchange(BROKEN[case])
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error_code"] == "INVALID_REQUEST"


def test_a_chunked_body_is_read_and_limited_under_gunicorn(served: gunicorn_server.Served, alice: Client) -> None:
    event = json.dumps(_event(alice)).encode()
    whole = _head(CHUNKED) + b"%x\r\n%s\r\n0\r\n\r\n" % (len(event), event)
    assert served.exchange(whole).startswith(b"HTTP/1.1 201 ")
    head = _head(CHUNKED, f"Authorization: Bearer {alice.key}", path="/api/v1/stages")
    for beyond, status in ((0, b"400"), (1, b"413"), (2**20, b"413")):
        padded = b"{}" + b" " * (2**20 - 2 + beyond)
        answer = served.exchange(head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(padded), padded))
        assert answer.startswith(b"HTTP/1.1 " + status), answer


def test_too_large_a_body_is_refused_before_it_is_sent(served: gunicorn_server.Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        connection.sendall(_head(f"Content-Length: {4 * 2**20 + 1}\r\nx-request-id: my-own_1"))
        answer = connection.recv(1000)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"\r\nX-Request-ID: my-own_1\r\n" in answer
    assert '"request_id": "my-own_1"' in served.log.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "query",
    [
        "limit=0", "limit=501", "limit=-1", "limit=", "limit=1.0", "limit=1e2", "limit=%2B5", "limit=1_0",
        "limit=%20 5", "limit=%D9%A3", "limit=" + "9" * 30, "limit=5&limit=5", "limit=true", "offset=-1",
        "offset=1000001", "offset=x", "Limit=5", "colour=red", "%00=1", "cursor=%00", "since=yesterday",
        "since=2026-01-01", "since=0001-01-01T00:00:00%2B23:59", "user_id=5", "user_id=%00", "event_type=a%00b",
        "event_type=" + "x" * 101, "business_id=", "%ff=%ff", "=", "event_type=%ff", "event_type=%ED%A0%80",
    ],
)  # fmt: skip
def test_a_wrong_query_is_a_400(query: str, alice: Client) -> None:
    answer = alice.get(f"{EVENTS}?{query.replace(' ', '%20')}")
    assert (answer.status, answer.error_code) == (400, "INVALID_REQUEST")


def test_the_edges_of_a_query_are_fine(alice: Client) -> None:
    for query in ("limit=1", "limit=500&offset=1000000", "limit=007", "event_type=%C3%BF%20%2B", "", "&"):
        assert alice.get(f"{EVENTS}?{query}").status == 200


def _forged(place: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


def test_a_cursor_that_is_not_the_lists_own_is_a_400(alice: Client) -> None:
    assert alice.post(EVENTS, [_event(alice) for _ in range(3)]).status == 201
    assert [_key(alice), _key(alice)]
    link = alice.get(f"{EVENTS}?limit=1").headers["Link"]
    cursor = link.partition("cursor=")[2].partition(">")[0]
    assert alice.get(f"{EVENTS}?limit=1&cursor={cursor}").status == 200
    keys = f"/api/v1/businesses/{alice.business_id}/api-keys"
    places: list[Any] = [[5, "x"], ["2026-01-01T00:00:00Z", "x"], [10**300, 5], {}, None, "ab"]
    wrong = [_forged(place) for place in places]
    wrong += [cursor[:-2], cursor[1:], "A" + cursor[1:], "A" * 16, "", "x" * 501, "%E2%82%AC", "a.b"]
    answers = [alice.get(f"{EVENTS}?cursor={text}") for text in wrong] + [alice.get(f"{keys}?cursor={cursor}")]
    assert {(answer.status, answer.error_code) for answer in answers} == {(400, "INVALID_REQUEST")}


def _key(owner: Client) -> int:
    return owner.call("POST", f"/api/v1/businesses/{owner.business_id}/api-keys", raw=b"{}").status


@pytest.mark.parametrize(
    "path_id", ["x", "%00", "%ff", "..%2F..", "0" * 36, "a" * 3000, "%F0%9F%98%80", "'%20OR%201=1"]
)
def test_an_id_in_the_path_that_is_no_uuid_is_a_400(path_id: str, alice: Client) -> None:
    answer = alice.get(f"/api/v1/stages/{path_id}")
    assert (answer.status, answer.error_code) in {(400, "INVALID_REQUEST"), (404, "NOT_FOUND")}
    assert answer.status == 400 or "%2F" in path_id
