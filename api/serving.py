"""How gunicorn serves the app: its command line, and its own lines in our JSON log."""

from __future__ import annotations

import sys
from pathlib import Path

from gunicorn import glogging
from gunicorn.config import Config

from api import logs
from api.settings import Settings

APP = "app:create_app()"
WORKER = "api.worker.Worker"
GRACE_SECONDS = 5  # beyond the longest turn, for its last transaction
MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108 — gunicorn makes an unnamed file there


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
        "--name", name,
        "--log-level", settings.log_level.lower(),
        "--logger-class", f"{__name__}.JsonLogger",
    ]  # fmt: skip
    if MEMORY_FOLDER.is_dir():
        options += ["--worker-tmp-dir", str(MEMORY_FOLDER)]  # the heartbeat must not wait for a disk
    return [sys.executable, "-m", "gunicorn", *options, APP]


def address(settings: Settings) -> str:
    """host:port, with the brackets that IPv6 needs."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{host}:{settings.port}"


def stop_seconds(settings: Settings) -> int:
    """How long a graceful stop may take."""
    return round(settings.turn_timeout_s) + GRACE_SECONDS


class JsonLogger(glogging.Logger):
    """gunicorn's messages through the root logger, so that the whole log is one kind of lines."""

    def setup(self, cfg: Config) -> None:
        logs.configure(cfg.loglevel.upper())
        self.error_log.setLevel(cfg.loglevel.upper())
        self.error_log.propagate = True
