"""Each worker has a processor of its own when there are workers for all of them."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api import gunicorn_server
from tests.conftest import Client
from tests.waiting import until

CPUS = sorted(os.sched_getaffinity(0))[:2] if hasattr(os, "sched_getaffinity") else []
pytestmark = pytest.mark.skipif(len(CPUS) < 2, reason="needs Linux and two processors")


@pytest.fixture(autouse=True)
def two_processors() -> Iterator[None]:
    """What is started now may use two of them, however many there are."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, CPUS)
    yield
    os.sched_setaffinity(0, before)


def _workers(served: gunicorn_server.Served) -> list[int]:
    """The process ids of all workers that were ever started, oldest first."""
    booted = (re.fullmatch(r"Booting worker with pid: (\d+)", line["message"]) for line in served.lines())
    return [int(found[1]) for found in booted if found]


def _allowed(worker: int) -> list[set[int]]:
    """Where each of its threads may run."""
    return [os.sched_getaffinity(int(thread.name)) for thread in Path(f"/proc/{worker}/task").iterdir()]


def _is_bound(worker: int, cpus: set[int]) -> bool:
    allowed = _allowed(worker)
    # The keeper's threads are started last of all.
    return len(allowed) > 1 and all(each == cpus for each in allowed)


def test_workers_for_all_processors_share_them_evenly(database_url: str, tmp_path: Path) -> None:
    with gunicorn_server.running(tmp_path, database_url, WEB_CONCURRENCY=str(len(CPUS))) as served:
        until(lambda: len(_workers(served)) == len(CPUS))
        first, *others = workers = _workers(served)
        until(lambda: all(len(_allowed(worker)) > 1 for worker in workers))
        bound = {worker: _allowed(worker)[0] for worker in workers}
        assert sorted(cpu for cpus in bound.values() for cpu in cpus) == CPUS
        assert all(_is_bound(worker, cpus) for worker, cpus in bound.items())
        os.kill(first, signal.SIGKILL)
        until(lambda: len(_workers(served)) > len(CPUS))
        until(lambda: _is_bound(_workers(served)[-1], bound[first]))
        assert all(_is_bound(other, bound[other]) for other in others)
        assert Client(served.port).get("/healthz").status == 200


def test_fewer_workers_may_use_every_processor(database_url: str, tmp_path: Path) -> None:
    with gunicorn_server.running(tmp_path, database_url, WEB_CONCURRENCY=str(len(CPUS) - 1)) as served:
        until(lambda: len(_workers(served)) == len(CPUS) - 1)
        until(lambda: all(_is_bound(worker, set(CPUS)) for worker in _workers(served)))
