"""The code of the release before this one, out of git's history, as a server of its own."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest

from api.launch import PROJECT
from db import migrate
from tests.conftest import ENVIRONMENT
from tests.waiting import free_port

LAST_MIGRATION = 4  # of the previous release
PATIENCE_SECONDS = 60
MISSING = "the previous release is not in this clone's history (a shallow clone, or no git)"


def commit() -> str | None:
    """The last commit that knew no later migration; None when the history does not say."""
    later = [migration for migration in migrate.available() if migration.version > LAST_MIGRATION]
    if not later:
        return _git("rev-parse", "HEAD")
    first = f"migrations/{later[0].version:04d}_{later[0].name}.sql"
    added = (_git("log", "--format=%H", "--diff-filter=A", "--", first) or "").split()
    return _git("rev-parse", f"{added[-1]}^") if added else None


def unpack(folder: Path) -> Path:
    """Its files, under `folder`; skips the test that asks when the history does not reach so far."""
    found = commit()
    if found is None:
        pytest.skip(MISSING)
    packed = subprocess.run(["git", "archive", found], cwd=PROJECT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as files:
        files.extractall(folder, filter="data")
    versions = [int(path.name[:4]) for path in (folder / "migrations").glob("*.sql")]
    assert max(versions) == LAST_MIGRATION, f"{found} is not the previous release"
    return folder


@contextmanager
def running(folder: Path, database_url: str, *, migrating: bool = False) -> Iterator[int]:
    """Serves the release in `folder`; its port."""
    port = free_port()
    chosen = ENVIRONMENT | {
        "DATABASE_URL": database_url,
        "PORT": str(port),
        "DB_POOL_SIZE": "4",
        "DATA_DIR": str(folder),
    }
    arguments = [sys.executable, "app.py", "serve"] + ([] if migrating else ["--no-migrate"])
    log = folder / "server.log"
    with log.open("wb") as output:
        env = {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(folder),
            "OPENAI_API_KEY": "",
            "OPENAI_BASE_URL": "",
            **chosen,
        }
        process = subprocess.Popen(
            arguments, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _wait_until_ready(process, port, log)
        yield port
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=PROJECT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    found = done.stdout.strip()
    return found if done.returncode == 0 and re.fullmatch(r"[0-9a-f\s]+", found) else None


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.1)
    raise AssertionError(f"the server did not start: {log.read_text(encoding='utf-8', errors='replace')}")
