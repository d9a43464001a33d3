"""What gunicorn does when one of its processes begins or ends: turns of lost workers are watched for, counters that the
processes share are put in order."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import sys
from collections import Counter
from typing import Any, cast

from flask import Flask
from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker
from prometheus_client import multiprocess

from api import replies, serving

# How many objects are made before Python looks for cycles among them, by default 700: a turn makes thousands, hardly
# any of them in a cycle.
YOUNG_OBJECTS = (5_000, 20, 20)
# How long a thread may compute while others wait for the interpreter, by default 5 ms. A turn computes for a
# millisecond at a time and then waits by itself; a forced change costs its caches: 8 % of the CPU with 32 clients.
SWITCH_SECONDS = 0.02


def when_ready(_server: Arbiter) -> None:
    """What is there before the workers are stays in memory that they share: a full collection of garbage would write to
    each object that it visits, and so copy it, and would take the time of looking at them all."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*YOUNG_OBJECTS)


def pre_fork(server: Arbiter, worker: Worker) -> None:
    """Choose the worker's processor, in the master, which knows those of the others. Each has one of its own when there
    are enough workers for all (docs/decisions/0030); with fewer, some would have none."""
    cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    taken = Counter(getattr(each, "cpu", None) for each in server.WORKERS.values())
    is_even = 1 < len(cpus) <= server.num_workers
    cast(Any, worker).cpu = min(cpus, key=lambda cpu: taken[cpu]) if is_even else None


def post_fork(_server: Arbiter, worker: Worker) -> None:
    """Before the worker's first thread: those to come stay with it."""
    cpu = cast(Any, worker).cpu
    if cpu is not None:
        with contextlib.suppress(OSError):  # not allowed here, or no longer ours: it works without
            os.sched_setaffinity(0, {cpu})


def post_worker_init(worker: Worker) -> None:
    """Watch from the first moment on: after a crash of everything there may be no request that would begin it."""
    sys.setswitchinterval(SWITCH_SECONDS)
    replies.watch(cast(Flask, worker.wsgi).extensions["icmp"])


def child_exit(server: Arbiter, worker: Worker) -> None:
    """A dead worker's counts stay, what it measured of itself goes."""
    if serving.COUNTERS in server.cfg.env_orig:
        multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


def on_exit(server: Arbiter) -> None:
    """Remove the folder, unless a newer server that this one started goes on counting in it."""
    folder = server.cfg.env_orig.get(serving.COUNTERS)
    if folder and not server.reexec_pid:
        shutil.rmtree(folder, ignore_errors=True)
