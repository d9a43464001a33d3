"""What gunicorn does for the counters that its processes share, when one of them ends and when all do."""

from __future__ import annotations

import shutil

from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker
from prometheus_client import multiprocess

from api import serving


def child_exit(server: Arbiter, worker: Worker) -> None:
    """A dead worker's counts stay, what it measured of itself goes."""
    if serving.COUNTERS in server.cfg.env_orig:
        multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


def on_exit(server: Arbiter) -> None:
    """Remove the folder, unless a newer server that this one started goes on counting in it."""
    folder = server.cfg.env_orig.get(serving.COUNTERS)
    if folder and not server.reexec_pid:
        shutil.rmtree(folder, ignore_errors=True)
