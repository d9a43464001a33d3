"""deploy/aws/nginx.conf, run as it is: behind a load balancer it finds the client, and only that."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.conftest import Client
from tests.deploy import instances
from tests.waiting import free_port

pytestmark = pytest.mark.skipif(instances.NGINX is None, reason=instances.MISSING)
BURST = 3


@pytest.fixture(scope="module")
def port(own_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A task: the app and its proxy; this machine plays the load balancer."""
    folder = tmp_path_factory.mktemp("task")
    limits = {"RATE_LIMIT_LOGIN_BURST": str(BURST), "RATE_LIMIT_LOGIN_PER_MINUTE": "1"}
    app = instances.Instance(folder, "task", {"DATABASE_URL": own_database} | limits)
    found = free_port()
    changes = [
        (r"listen 8080", f"listen 127.0.0.1:{found}"),
        (r"127\.0\.0\.1:8000", f"127.0.0.1:{app.port}"),
        (r"/tmp\b", str(folder)),  # noqa: S108 — a pattern
        (r"set_real_ip_from 10\.0\.0\.0/8", "set_real_ip_from 127.0.0.0/8"),
    ]
    with ExitStack() as stack:
        stack.callback(app.kill)
        app.start()
        stack.enter_context(instances.nginx(folder, instances.DEPLOY / "aws" / "nginx.conf", changes, found))
        yield found


def _logins(port: int, forwarded: list[str]) -> list[int]:
    body = {"email": f"{uuid.uuid4().hex}@example.com", "password": "a wrong pass phrase"}
    return [Client(port).post("/api/v1/auth/login", body, X_Forwarded_For=each).status for each in forwarded]


def test_the_client_is_whom_the_load_balancer_saw(port: int) -> None:
    # What stands left of the load balancer's own entry is the client's invention.
    assert 429 in _logins(port, [f"198.51.100.{n}, 203.0.113.9" for n in range(BURST + 3)])
    assert _logins(port, [f"203.0.113.9, 203.0.113.{n}" for n in range(20, 24)]) == [401] * 4


def test_the_app_knows_that_the_client_came_over_tls(port: int) -> None:
    answer = Client(port).get("/readyz")
    assert answer.status == 200
    assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"


def test_it_has_the_bounds_of_every_proxy(port: int) -> None:
    assert Client(port).get("/metrics").error_code == "NOT_FOUND"
    large = Client(port, "key").post("/api/v1/messages", {"message": "x" * 1_100_000})
    assert (large.status, large.error_code) == (413, "PAYLOAD_TOO_LARGE")
