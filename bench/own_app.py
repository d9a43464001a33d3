"""The app for one play: on a port and data of its own, started and stopped by the player."""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import importer

STOP_SECONDS = 60


class AppDidNotStart(Exception):
    """The app ended or stayed silent before it was ready; the text ends with its last lines."""


@dataclass(frozen=True)
class Served:
    """A server that runs and is ready."""

    url: str
    pid: int
    log: Path


@contextlib.contextmanager
def running(command: str, start_seconds: float, further: Mapping[str, str]) -> Iterator[str]:
    """The app with these `further` variables; yields its URL, stops it and drops its data afterwards. Raises
    AppDidNotStart."""
    with tempfile.TemporaryDirectory(prefix="icmp-play-", ignore_cleanup_errors=True) as folder:
        port = free_port()
        environment = _environment(port, Path(folder) / "data") | dict(further)
        log = Path(folder) / "output.log"
        with served(shlex.split(command), port, environment, log, start_seconds=start_seconds) as app:
            yield app.url


@contextlib.contextmanager
def served(
    command: Sequence[str],
    port: int,
    environment: Mapping[str, str],
    log: Path,
    *,
    ready_path: str = "/readyz",
    start_seconds: float = 60,
    folder: Path | None = None,
) -> Iterator[Served]:
    """A server that the command starts on this port of 127.0.0.1, until the block ends; it answers `ready_path` with
    200 once it is ready. Raises AppDidNotStart."""
    # Started in the background, a script may ignore SIGINT and hand that down: the stop needs it heard.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with log.open("wb") as output:
        # A group of its own, so that the stop reaches what the command itself has started.
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(process, url + ready_path, start_seconds, log)
        yield Served(url, process.pid, log)
    finally:
        _stop(process)


def _environment(port: int, data_dir: Path) -> dict[str, str]:
    # Emptied, not left out: a value in the app's .env must not lead the play into a database that matters.
    elsewhere = ("DATABASE_URL", "DB_HOST", "MIGRATION_DATABASE_URL", "RATE_LIMIT_STORAGE_URI")
    encryption_key = base64.b64encode(secrets.token_bytes(32)).decode()
    return {
        **dict.fromkeys(elsewhere, ""),
        "PORT": str(port),
        "DATA_DIR": str(data_dir),
        "ENCRYPTION_KEY": f"play:{encryption_key}",
    }


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, seconds: float, log: Path) -> None:
    deadline = time.monotonic() + seconds
    while importer.Api(url, "").request("GET", "").status != 200:
        if process.poll() is not None or time.monotonic() > deadline:
            fate = "is not ready in time" if process.poll() is None else f"ended with {process.returncode}"
            last_lines = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
            raise AppDidNotStart(f"the app {fate}; its last lines:\n{last_lines}")
        time.sleep(0.2)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the app's group as Ctrl-C in a terminal would; kill it when it does not end in time."""
    for signal_number in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal_number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
            return
        print(f"play.py: the app did not stop within {STOP_SECONDS} s and is killed", file=sys.stderr)
