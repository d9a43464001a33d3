"""How gunicorn serves the app: its command line, and what its processes share."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from api.settings import Settings

APP = "app:create_app()"
WORKER = "api.worker.Worker"
GRACE_SECONDS = 5  # beyond the longest turn, for its last transaction
MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108 — what is made there has names that nobody can guess
# prometheus_client asks for it while it is imported, so it must be set before the server starts.
COUNTERS = "PROMETHEUS_MULTIPROC_DIR"


def command(settings: Settings, *, name: str) -> list[str]:
    """The command that serves the app; `name` marks the process among others of its kind."""
    options = [
        "--bind", address(settings),
        "--worker-class", WORKER,
        "--workers", str(settings.web_concurrency),
        "--threads", str(settings.web_threads),
        "--preload",  # a fault while the app is built is met once, before a worker exists
        "--timeout", "60",  # of a worker's main loop; a request's own limit is the turn's
        "--graceful-timeout", str(stop_seconds(settings)),
        "--keep-alive", "75",  # longer than the proxy's 60, which otherwise sends into a closing connection
        "--limit-request-line", "4094",
        "--forwarder-headers", "X_NONE",  # the default lets a client's SCRIPT_NAME choose another route
        "--header-map", "drop",
        "--forwarded-allow-ips", ",".join(str(network) for network in settings.trusted_proxies),
        "--no-control-socket",
        "--config", "python:api.gunicorn_hooks",
        "--name", name,
        "--log-level", settings.log_level.lower(),
        "--logger-class", "api.gunicorn_logger.JsonLogger",
    ]  # fmt: skip
    if MEMORY_FOLDER.is_dir():
        options += ["--worker-tmp-dir", str(MEMORY_FOLDER)]  # the heartbeat must not wait for a disk
    return [sys.executable, "-m", "gunicorn", *options, APP]


def variables(settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` for a server of its own."""
    # gunicorn reads this one itself, while it is imported, and an empty one ends it.
    return {**environment, "WEB_CONCURRENCY": str(settings.web_concurrency), **shared_counters()}


def shared_counters() -> dict[str, str]:
    """The variable that lets a server's processes count together, in a new folder; the server removes it when it ends.
    Every start needs its own: the counts of processes that are gone would be added to."""
    parent = MEMORY_FOLDER if MEMORY_FOLDER.is_dir() else None  # counting must not wait for a disk
    return {COUNTERS: tempfile.mkdtemp(prefix="icmp-counters-", dir=parent)}


def address(settings: Settings) -> str:
    """host:port, with the brackets that IPv6 needs."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{host}:{settings.port}"


def stop_seconds(settings: Settings) -> int:
    """How long a graceful stop may take."""
    return round(settings.turn_timeout_s) + GRACE_SECONDS
