"""Several processes count together: the page is the same, whoever answers it, and the dead are still counted."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from api import serving
from tests.api import gunicorn_server
from tests.api.test_metrics import samples
from tests.conftest import MASTER_KEY, Client
from tests.waiting import until

WELCOME = frozenset({("method", "GET"), ("route", "/"), ("status", "200")})


@pytest.fixture(scope="module")
def served(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[gunicorn_server.Served]:
    """The app under gunicorn with two workers; their folder goes with them."""
    with gunicorn_server.running(tmp_path_factory.mktemp("counted"), database_url, WEB_CONCURRENCY="2") as server:
        folder = _folder(_master(server))
        yield server
    assert not folder.exists()


def _page(served: gunicorn_server.Served) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    answer = Client(served.port, MASTER_KEY).get("/metrics")
    assert answer.status == 200
    return samples(answer.body)


def _welcomes(served: gunicorn_server.Served) -> float:
    return _page(served).get(("icmp_requests_total", WELCOME), 0)


def _master(served: gunicorn_server.Served) -> psutil.Process:
    [started] = [line for line in served.lines() if line["message"].startswith("Listening at")]
    found = re.search(r"\((\d+)\)", started["message"])
    assert found
    return psutil.Process(int(found[1]))


def _ask(served: gunicorn_server.Served, times: int) -> None:
    with ThreadPoolExecutor(8) as threads:
        statuses = list(threads.map(lambda _: Client(served.port).get("/").status, range(times)))
    assert statuses == [200] * times


def _folder(server: psutil.Process) -> Path:
    return Path(server.environ()[serving.COUNTERS])


def _counting(server: psutil.Process, kind: str) -> set[int]:
    """The processes that have a file of this kind."""
    return {int(path.stem.rpartition("_")[2]) for path in _folder(server).glob(f"{kind}_*.db")}


def test_the_sums_are_right_whichever_worker_answers(served: gunicorn_server.Served) -> None:
    _ask(served, 100)
    assert [_welcomes(served) for _ in range(10)] == [100] * 10
    assert _folder(_master(served)).stat().st_mode & 0o77 == 0, "nobody else may read or change them"
    server = _master(served)
    workers = {child.pid for child in server.children()}
    assert len(workers) == 2
    page = _page(served)
    [build] = [value for (name, _), value in page.items() if name == "icmp_build_info"]
    assert build == 1
    assert page["icmp_request_seconds_count", frozenset({("route", "/")})] == 100


def test_a_killed_workers_counts_stay_and_its_gauges_go(served: gunicorn_server.Served) -> None:
    before_kill = _welcomes(served)
    assert Client(served.port).get("/readyz").status == 200  # a worker has a connection now
    idle = ("icmp_pool_connections", frozenset({("state", "idle")}))
    until(lambda: _page(served)[idle] >= 1)  # told once a second
    server = _master(served)
    before = {child.pid for child in server.children()}
    for child in server.children():
        child.send_signal(signal.SIGKILL)
    until(lambda: not before & _counting(server, "gauge_livesum"))
    assert before <= _counting(server, "counter")
    until(lambda: len({child.pid for child in server.children()} - before) == 2)
    assert _welcomes(served) == before_kill
    _ask(served, 7)
    assert _welcomes(served) == before_kill + 7
    assert _page(served).get(idle, 0) <= 2, "only the new workers' own"
