"""Calls to addresses that tenants name: how long they may take, whom they trust, and what comes back."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from nlp import egress
from nlp.egress import Egress
from nlp.errors import LookUpFailed
from tests.nlp import egress_calls, model_server, web_server
from tests.nlp.web_server import Server


@pytest.fixture(scope="module")
def web() -> Iterator[Server]:
    with web_server.running() as server:
        yield server


def _call(server: Server, path: str = "/", **changes: Any) -> list[dict[str, Any]]:
    return Egress({server.host}).call("b1", egress_calls.request(f"http://{server.host}{path}", **changes))


def _failure(server: Server, **changes: Any) -> str:
    return egress_calls.refusal(Egress({server.host}), egress_calls.request(f"http://{server.host}/", **changes))


def test_objects_of_the_answer_become_rows(web: Server) -> None:
    web.tells({"data": {"items": [{"status": "sent"}, 7]}})
    assert _call(web, "/orders/4411?full=1", result_path="data.items") == [{"status": "sent"}, {"value": 7}]
    [seen] = web.seen
    assert (seen.method, seen.path, seen.body) == ("GET", "/orders/4411?full=1", b"")
    assert (seen.headers["host"], seen.headers["accept-encoding"]) == (web.host, "identity")


def test_body_goes_out_as_json_and_further_headers_win(web: Server) -> None:
    web.tells([])
    headers = {"X-Key": "open", "X-Name": "Zoë"}
    request = egress_calls.request(f"http://{web.host}/", method="POST", body={"name": "Zoë"}, headers=headers)
    assert Egress({web.host}).call("b1", request, {"x-key": "secret"}) == []
    [seen] = web.seen
    assert json.loads(seen.body) == {"name": "Zoë"}
    assert (seen.headers["x-key"], seen.headers["content-type"]) == ("secret", "application/json")
    assert seen.headers["x-name"].encode("latin-1").decode() == "Zoë"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(web: Server, status: int) -> None:
    with web_server.running() as inside:
        web.tells({}, status, Location=f"http://{inside.host}/secret")
        client = Egress({web.host, inside.host})
        assert egress_calls.refusal(client, egress_calls.request(f"http://{web.host}/")) == "redirect"
        assert (len(web.seen), inside.seen) == (1, [])


def test_the_environments_proxies_and_credentials_are_not_used(
    web: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password something\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    web.tells([1], Set_Cookie="a=b")
    assert _call(web) == _call(web) == [{"value": 1}]
    assert not {"authorization", "cookie", "proxy-authorization"} & {name for seen in web.seen for name in seen.headers}


def test_tls_asks_for_the_name_and_believes_only_its_certificate(tmp_path: Path) -> None:
    server_tls, client_tls = web_server.certificate(tmp_path, "api.shop.test")
    with web_server.running(server_tls) as web:
        web.tells({"status": "sent"})

        def call(host: str) -> list[dict[str, Any]]:
            named = f"{host}:{web.server_port}"
            client = Egress({named}, resolve=egress_calls.always(["127.0.0.1"]), tls=client_tls)
            return client.call("b1", egress_calls.request(f"https://{named}/"))

        assert call("api.shop.test") == [{"status": "sent"}]
        assert (web.names, web.seen[0].headers["host"]) == (["api.shop.test"], f"api.shop.test:{web.server_port}")
        with pytest.raises(LookUpFailed, match="unreachable"):
            call("other.shop.test")
        assert len(web.seen) == 1


@pytest.mark.parametrize(
    "behaviour", [model_server.drips, model_server.drips_headers, model_server.stalls, model_server.hangs]
)
def test_one_deadline_covers_the_whole_call(web: Server, behaviour: model_server.Behaviour) -> None:
    web.plays(behaviour)
    assert _failure(web, timeout_s=0.2) == "timeout"


def test_the_turns_deadline_comes_first(web: Server) -> None:
    web.plays(model_server.hangs)
    assert _failure(web, timeout_s=10.0, deadline=time.monotonic() + 0.1) == "timeout"


def test_a_server_that_never_speaks_tls_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        host = f"127.0.0.1:{listening.getsockname()[1]}"
        assert (
            egress_calls.refusal(Egress({host}), egress_calls.request(f"https://{host}/", timeout_s=0.2)) == "timeout"
        )


def test_slow_names_are_given_up_and_cannot_take_everybodys_threads() -> None:
    answered = threading.Event()

    def slow(host: str, _port: int) -> list[str]:
        if host == "slow.example":
            answered.wait(20)
        return ["127.0.0.1"]

    client = Egress(resolve=slow)
    slow_request = egress_calls.request("https://slow.example/", timeout_s=0.02)
    reasons = [egress_calls.refusal(client, slow_request) for _ in range(7)]
    assert reasons == ["timeout"] * 5 + ["busy"] * 2
    assert egress_calls.refusal(client, egress_calls.request("https://quick.example/"), "b2") == "blocked"
    answered.set()


def test_a_business_has_five_calls_at_a_time(web: Server) -> None:
    five, opened = threading.Barrier(6), threading.Event()

    def hold(handler: model_server.Handler) -> None:
        five.wait(10)
        opened.wait(10)
        handler.send(200, b"[]")

    web.plays(hold)
    client, request = Egress({web.host}), egress_calls.request(f"http://{web.host}/", timeout_s=10.0)
    with ThreadPoolExecutor(5) as threads:
        running = [threads.submit(client.call, "b1", request) for _ in range(5)]
        five.wait(10)
        web.tells([])
        assert egress_calls.refusal(client, request) == "busy"
        assert client.call("b2", request) == []
        opened.set()
        assert [each.result() for each in running] == [[]] * 5
    assert client.call("b1", request) == []


@pytest.mark.parametrize("status", [200, 500])
def test_a_flood_is_cut_off(web: Server, status: int) -> None:
    web.plays(model_server.floods(status))
    web.flooded = 0
    assert _failure(web) == ("too_large" if status == 200 else "bad_status")
    assert web.flooded < 50_000_000


def test_a_packed_answer_is_refused_without_unpacking(web: Server) -> None:
    bomb = gzip.compress(b"[" + b"0," * 20_000_000 + b"0]", compresslevel=1)
    web.tells(bomb, Content_Encoding="gzip")
    assert _failure(web) == "not_json"


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (model_server.answers(b"<html>hello</html>", content_type="text/html"), "not_json"),
        (model_server.answers(b"[1, NaN]"), "not_json"),
        (model_server.answers(b"[1e999]"), "not_json"),
        (model_server.answers(b'["\\ud800"]'), "not_json"),
        (model_server.answers(b"\xff\xfe"), "not_json"),
        (model_server.answers(b"[" * 100_000), "not_json"),
        (model_server.answers(b"[" * 40 + b"]" * 40), "not_json"),
        (model_server.answers({"status": "x" * 300_000}), "too_large"),
        (model_server.answers({}, 404), "bad_status"),
        (model_server.answers({}, 503), "bad_status"),
        (model_server.cuts, "unreachable"),
        (model_server.resets, "unreachable"),
    ],
)
def test_unusable_answers_have_a_word_each(web: Server, behaviour: model_server.Behaviour, reason: str) -> None:
    web.plays(behaviour)
    with pytest.raises(LookUpFailed) as caught:
        _call(web)
    assert (caught.value.reason, caught.value.status) == (
        reason,
        caught.value.status if reason == "bad_status" else None,
    )
    assert "127.0.0.1" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "path", "expected"),
    [
        (b'{"a": 1}', "", [{"a": 1}]),
        (b"\xef\xbb\xbf[true, [2]]", "", [{"value": True}, {"value": [2]}]),
        (b"null", "", []),
        (b'{"a": [{"b": 2}]}', "a.0.b", [{"value": 2}]),
        (b'{"a": 1}', "data.items", []),
        (b"", "data.items", [{"status": 204}]),
    ],
)
def test_any_json_becomes_rows(content: bytes, path: str, expected: list[dict[str, Any]]) -> None:
    assert egress.rows(204, content, path) == expected


def test_an_answer_of_a_quarter_of_a_megabyte_is_whole(web: Server) -> None:
    size = egress.MAX_BYTES - len('{"status": ""}')
    for status in ("x" * size, ["x"] * (size // len('"x", ') - 1)):
        web.tells({"status": status})
        assert _call(web) == [{"status": status}]
    for answer in ({"status": "x" * (size + 1)}, [0] * 100_000):
        web.tells(answer)
        assert _failure(web) == "too_large"


def test_a_server_that_takes_a_long_request_in_gulps_gets_no_more_time() -> None:
    begun, done = time.monotonic(), threading.Event()

    def gulp(listening: socket.socket) -> None:
        listening.settimeout(10)
        connection, _ = listening.accept()
        with connection:
            connection.setblocking(False)
            while not done.wait(0.6):
                with contextlib.suppress(BlockingIOError, ConnectionError):
                    for _ in range(25):
                        connection.recv(65536)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        host = f"127.0.0.1:{listening.getsockname()[1]}"
        reader = threading.Thread(target=gulp, args=[listening])
        reader.start()
        try:
            call = egress_calls.request(f"http://{host}/", method="POST", body="x" * 20_000_000, timeout_s=1.0)
            assert egress_calls.refusal(Egress({host}), call) == "timeout"
            assert time.monotonic() - begun < 4
        finally:
            done.set()
            reader.join()
