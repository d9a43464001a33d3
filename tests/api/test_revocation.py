"""A key that is revoked or over is refused within a second by every worker of a real server, with all made from it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection

import psutil
import pytest

from tests.api import gunicorn_server, people
from tests.conftest import MASTER_KEY, Client, onboard
from tests.database import asked

PATIENCE_SECONDS = 20
WITHIN_SECONDS = 1.0
ROUNDS = 20


@dataclass
class Workers:
    """The workers of a server, and one open connection to each: what is sent there is answered by that process."""

    port: int
    lines: dict[int, HTTPConnection] = field(default_factory=dict)

    def connect(self, wanted: int) -> None:
        """Open connections until each of so many workers holds one."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(self.lines) < wanted:
            assert time.monotonic() < deadline, f"only {sorted(self.lines)} ever answered"
            line = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
            line.request("GET", "/healthz")
            line.getresponse().read()
            if self.lines.setdefault(self._worker_of(line), line) is not line:
                line.close()

    def statuses(self, path: str, **headers: str) -> dict[int, int]:
        """What each worker answers, by process."""
        found = {}
        for worker, line in self.lines.items():
            line.request("GET", path, headers=headers)
            response = line.getresponse()
            response.read()
            found[worker] = response.status
        return found

    def close(self) -> None:
        """Hang up."""
        for line in self.lines.values():
            line.close()

    def _worker_of(self, line: HTTPConnection) -> int:
        """The process at the other end of the connection."""
        assert line.sock is not None
        ours = line.sock.getsockname()[1]
        for process in psutil.Process().children(recursive=True):
            for connection in process.net_connections("tcp"):
                if connection.laddr.port == self.port and connection.raddr and connection.raddr.port == ours:
                    return int(process.pid)
        raise AssertionError("no process of ours answered")


@pytest.fixture(scope="module")
def served(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    """A server of two workers."""
    folder = tmp_path_factory.mktemp("workers")
    limits = {"RATE_LIMIT_LOGIN_BURST": "1000", "RATE_LIMIT_LOGIN_PER_MINUTE": "1000"}
    with gunicorn_server.running(folder, database_url, WEB_CONCURRENCY="2", **limits) as server:
        workers = Workers(server.port)
        workers.connect(2)
        yield workers
        workers.close()


def _credentials(port: int) -> tuple[Client, str, list[dict[str, str]]]:
    """The first key of a business; the id of a second one; and headers that carry this one and a cookie made of it."""
    owner = onboard(Client(port, MASTER_KEY), "Shop")
    made = owner.post(f"/api/v1/businesses/{owner.business_id}/api-keys", {"name": "second"}).body
    saved = Client(port).post("/api/save-config", {"businessApiKey": made["api_key"]})
    cookie = {"Cookie": saved.headers["Set-Cookie"].partition(";")[0]}
    return owner, made["key_id"], [{"Authorization": f"Bearer {made['api_key']}"}, cookie]


def _expect(workers: Workers, credentials: list[dict[str, str]], status: int) -> None:
    for headers in credentials * ROUNDS:
        assert set(workers.statuses("/api/v1/auth/me", **headers).values()) == {status}


def test_a_revoked_key_and_its_cookies_are_refused_by_every_worker_within_a_second(served: Workers) -> None:
    owner, key_id, credentials = _credentials(served.port)
    _expect(served, credentials, 200)
    assert owner.delete(f"/api/v1/businesses/{owner.business_id}/api-keys/{key_id}").status == 204
    time.sleep(WITHIN_SECONDS)
    _expect(served, credentials, 401)
    assert len(served.lines) == 2


def test_a_key_whose_time_is_over_is_refused_by_every_worker_within_a_second(
    served: Workers, database_url: str
) -> None:
    _, key_id, credentials = _credentials(served.port)
    _expect(served, credentials, 200)
    statement = "UPDATE api_keys SET expires_at = clock_timestamp() WHERE key_id = %s"
    asked(database_url, statement, key_id)
    time.sleep(WITHIN_SECONDS)
    _expect(served, credentials, 401)


def test_a_deleted_business_is_gone_for_every_worker_within_a_second(served: Workers) -> None:
    owner, _, credentials = _credentials(served.port)
    credentials.append({"Authorization": f"Bearer {owner.key}"})
    _expect(served, credentials, 200)
    master = Client(served.port, MASTER_KEY)
    assert master.delete(f"/api/v1/businesses/{owner.business_id}").status == 204
    time.sleep(WITHIN_SECONDS)
    _expect(served, credentials, 401)


@pytest.mark.parametrize("end", ["logout", "new password", "no member any more"])
def test_an_ended_login_is_refused_by_every_worker_within_a_second(end: str, served: Workers) -> None:
    owner = onboard(Client(served.port, MASTER_KEY), "Shop")
    person = people.hire(owner, "admin")
    client = person.client(served.port)
    credentials = [{"Authorization": f"Bearer {client.key}"}, {"Cookie": f"icmpSession={client.key}"}]
    _expect(served, credentials, 200)
    path = f"/api/v1/users/{person.user_id}"
    if end == "logout":
        assert client.call("POST", "/api/v1/auth/logout").status == 204
    elif end == "new password":
        change = {"password": "another pass phrase", "current_password": person.password}
        assert client.patch(path, change).status == 200
    else:
        assert owner.delete(path).status == 204
    time.sleep(WITHIN_SECONDS)
    _expect(served, credentials, 401)


def test_a_new_key_is_taken_by_every_worker_at_once(served: Workers) -> None:
    owner = onboard(Client(served.port, MASTER_KEY), "Shop")
    body = {"name": str(uuid.uuid4()), "expire_others_in_s": 60}
    made = owner.post(f"/api/v1/businesses/{owner.business_id}/api-keys", body).body
    both = [{"Authorization": f"Bearer {key}"} for key in (made["api_key"], owner.key)]
    _expect(served, both, 200)
