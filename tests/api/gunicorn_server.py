"""The app as it is served in production: gunicorn in a process of its own, with its log to read."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from api import launch, serving
from api.settings import from_environment
from tests.conftest import ENVIRONMENT

PATIENCE_SECONDS = 30


@dataclass(frozen=True)
class Served:
    """A server that answers on a port and writes a log."""

    port: int
    log: Path

    def lines(self) -> list[dict[str, Any]]:
        """Every line of the log; fails when one is no JSON."""
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]

    def exchange(self, sent: bytes) -> bytes:
        """What comes back for raw bytes, after which the client sends no more."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_SECONDS) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65536), b""))


@contextmanager
def running(
    folder: Path,
    database_url: str,
    *,
    application: str = serving.APP,
    worker: str = serving.WORKER,
    **environment: str,
) -> Iterator[Served]:
    """The app, or another one that is named so, on a free port until the end of the block."""
    chosen = ENVIRONMENT | {"DATABASE_URL": database_url, "LOG_LEVEL": "INFO", "WEB_CONCURRENCY": "1"} | environment
    settings = replace(from_environment(chosen), port=0)
    log = folder / "log"
    with log.open("wb") as output:
        own = {serving.APP: application, serving.WORKER: worker}
        process = subprocess.Popen(
            [own.get(word, word) for word in serving.command(settings, name="icmp test")],
            cwd=launch.PROJECT,
            # Empty counts as not set, and keeps a developer's .env out.
            env={
                "PATH": "/usr/bin:/bin",
                "OPENAI_API_KEY": "",
                "OPENAI_BASE_URL": "",
                **chosen,
                **serving.shared_counters(),
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Served(_port(process, log, chosen), log)
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


def _port(process: subprocess.Popen[bytes], log: Path, environment: Mapping[str, str]) -> int:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        told = re.search(r"Listening at: http://127\.0\.0\.1:(\d+)", log.read_text(encoding="utf-8"))
        if told:
            return int(told[1])
        time.sleep(0.05)
    raise AssertionError(f"gunicorn did not start with {sorted(environment)}: {log.read_text(encoding='utf-8')}")
