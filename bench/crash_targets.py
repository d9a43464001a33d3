"""What a crash trial kills: a PostgreSQL and the app, each of which comes back."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from bench import ground, importer
from db import embedded

PATIENCE_SECONDS = 90


class TrialFailed(Exception):
    """Something was lost, doubled or stuck; the text says what."""


class Postgres:
    """A durable server that can be killed and comes back with its data."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self.url = self._start()

    def kill(self, number: int) -> None:
        """End its first process by this signal, and bring the server back."""
        pid = int((self._folder / "cluster" / "postmaster.pid").read_text().split()[0])
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).send_signal(number)
        self._stack.close()
        self._start()

    def close(self) -> None:
        """Stop it in order."""
        self._stack.close()

    def _start(self) -> str:
        for tries_left in range(20, -1, -1):
            try:
                return self._stack.enter_context(embedded.running(self._folder))
            except embedded.EmbeddedServerFailed:
                if not tries_left:
                    raise
                time.sleep(0.5)  # processes of the killed server may still hold its memory
        raise AssertionError


class App:
    """ICMP as it is served in production, which can be killed and started again."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self.environment, self._log = environment, log
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{environment['PORT']}"

    def start(self) -> None:
        """Start it and wait until it is ready."""
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "app.py", "serve"],
                cwd=ground.PROJECT,
                env={"PATH": "/usr/bin:/bin", **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + PATIENCE_SECONDS
        while importer.Api(self.url, "").request("GET", "/readyz").status != 200:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise TrialFailed(f"the app did not start: {self._log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)

    def workers(self) -> list[psutil.Process]:
        """Its worker processes."""
        if self._process is None or self._process.poll() is not None:
            return []
        try:
            return psutil.Process(self._process.pid).children()
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """kill -9 of every process at once."""
        for process in [psutil.Process(self._process.pid), *self.workers()] if self._process else []:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self._process is not None:
            self._process.wait()

    def close(self) -> None:
        """Stop it in order."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(PATIENCE_SECONDS)
