"""deploy/nginx.conf, run as it is: TLS 1.3 only, limits, its own refusals, and what it tells the app."""

from __future__ import annotations

import json
import socket
import ssl
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.conftest import MASTER_KEY
from tests.deploy import instances
from tests.deploy.instances import Site
from tests.waiting import free_port, until

pytestmark = pytest.mark.skipif(instances.NGINX is None, reason=instances.MISSING)
LOGIN_BURST = 4


@pytest.fixture(scope="module")
def site(own_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two instances behind the proxy, with a small bucket of logins."""
    limits = {"RATE_LIMIT_LOGIN_BURST": str(LOGIN_BURST), "RATE_LIMIT_LOGIN_PER_MINUTE": "1"}
    with instances.site(tmp_path_factory.mktemp("site"), DATABASE_URL=own_database, **limits) as found:
        yield found


def _handshake(site: Site, version: ssl.TLSVersion) -> str | None:
    context = site.proxy.context()
    context.minimum_version = context.maximum_version = version
    with (
        socket.create_connection(("127.0.0.1", site.proxy.port), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as wrapped,
    ):
        return wrapped.version()


def test_tls_1_3_is_spoken_and_1_2_is_refused(site: Site) -> None:
    assert _handshake(site, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
        _handshake(site, ssl.TLSVersion.TLSv1_2)


def test_plain_http_is_led_to_https_and_browsers_are_told_to_stay(site: Site) -> None:
    connection = HTTPConnection("127.0.0.1", site.proxy.plain_port, timeout=30)
    connection.request("GET", "/docs/?a=b", headers={"Host": "icmp.example"})
    response = connection.getresponse()
    assert (response.status, response.headers["Location"]) == (308, "https://icmp.example/docs/?a=b")
    connection.close()
    assert site.proxy.call("GET", "/healthz").headers["Strict-Transport-Security"].startswith("max-age=")


def test_both_instances_share_the_work(site: Site) -> None:
    before = [instance.requests("/") for instance in site.instances]
    assert {site.proxy.call("GET", "/").status for _ in range(40)} == {200}
    until(lambda: sum(instance.requests("/") for instance in site.instances) == sum(before) + 40)
    assert all(instance.requests("/") - seen >= 15 for instance, seen in zip(site.instances, before, strict=True))


def test_a_client_cannot_choose_its_address(site: Site) -> None:
    tries, started = LOGIN_BURST + 6, time.monotonic()
    body = {"email": "nobody@example.com", "password": "a wrong pass phrase"}
    statuses = [
        site.proxy.call("POST", "/api/v1/auth/login", body, X_Forwarded_For=f"203.0.113.{n}").status
        for n in range(tries)
    ]
    # One bucket for the one address that the proxy saw, whichever instance answers; a token a minute comes back.
    assert set(statuses) == {401, 429}
    assert LOGIN_BURST <= statuses.count(401) <= LOGIN_BURST + 1 + (time.monotonic() - started) / 60


def test_bodies_are_bounded_and_the_refusal_has_the_one_shape(site: Site) -> None:
    large = [{"event_id": str(uuid.uuid4()), "event_data": {"text": "x" * 1_500_000}}]
    refused = site.proxy.call("POST", "/api/v1/messages", large, MASTER_KEY)
    assert (refused.status, refused.error_code) == (413, "PAYLOAD_TOO_LARGE")
    # Events may be larger: this one reaches the app, which finds it lacking.
    assert site.proxy.call("POST", "/api/v1/events", large).error_code == "INVALID_REQUEST"


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nBad Header\x00: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: " + b"x" * 9_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 9_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=["malformed", "header too long", "path too long", "no host"],
)
def test_what_it_cannot_read_it_refuses_in_the_one_shape(site: Site, sent: bytes) -> None:
    plain = socket.create_connection(("127.0.0.1", site.proxy.port), timeout=30)
    with site.proxy.context().wrap_socket(plain, server_hostname="127.0.0.1") as wrapped:
        wrapped.sendall(sent)
        head, _, body = b"".join(iter(lambda: wrapped.recv(65536), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    told = json.loads(body)
    assert told["error_code"] == "INVALID_REQUEST"
    assert f"X-Request-ID: {told['request_id']}".encode() in head


def test_metrics_are_not_for_the_outside(site: Site) -> None:
    for path in ("/metrics", "/metrics/", "//metrics/", "/metrics%2f", "/unreadable"):
        assert site.proxy.call("GET", path, key=MASTER_KEY).error_code == "NOT_FOUND"


def test_headers_with_underscores_do_not_reach_the_app(site: Site) -> None:
    connection = socket.create_connection(("127.0.0.1", site.proxy.port), timeout=30)
    with site.proxy.context().wrap_socket(connection, server_hostname="127.0.0.1") as wrapped:
        head = "GET /public/healthz HTTP/1.1\r\nHost: a\r\nSCRIPT_NAME: /public\r\nConnection: close\r\n\r\n"
        wrapped.sendall(head.encode())
        assert wrapped.recv(100).startswith(b"HTTP/1.1 404 ")


def test_clients_that_send_half_a_request_block_nobody(site: Site) -> None:
    # More than all threads of both instances together.
    with ExitStack() as stack:
        for _ in range(60):
            plain = socket.create_connection(("127.0.0.1", site.proxy.port), timeout=30)
            wrapped = stack.enter_context(site.proxy.context().wrap_socket(plain, server_hostname="127.0.0.1"))
            wrapped.sendall(b"POST /api/v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{")
        assert site.proxy.call("GET", "/readyz").status == 200


def test_nobody_behind_it_is_an_answer_of_the_one_shape(tmp_path: Path) -> None:
    with instances.proxy(tmp_path, (free_port(), free_port())) as alone:
        answer = alone.call("GET", "/healthz")
    assert (answer.status, answer.error_code, answer.headers["Retry-After"]) == (503, "SERVER_ERROR", "2")
