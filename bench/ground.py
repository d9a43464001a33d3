"""What all systems under test share: the model stub, a fresh PostgreSQL, a folder, and the load that is played."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2 import sql

from bench import importer, load, model_stub, own_app
from db import embedded

PROJECT = Path(__file__).resolve().parent.parent
DATA = PROJECT / ".data" / "bench"  # virtual environments stay here, everything else is gone after a run
CONNECTIONS = 150  # room for what each system keeps idle beside the 90 of the seed, which opens one for each turn
STOP_SECONDS = 10


class LoadFailed(Exception):
    """The load generator or the stub did not do its work; the text has its last words."""


@dataclass(frozen=True)
class Ground:
    """`postgres_url` names the database `icmp`, over TCP and with a password, as programs in production reach theirs;
    `folder` is empty at first."""

    folder: Path
    postgres_url: str
    postgres_pid: int
    stub_url: str

    def database(self, name: str) -> str:
        """The URL of a new, empty database of that name beside `icmp`."""
        with contextlib.closing(psycopg2.connect(self.postgres_url)) as connection:
            connection.autocommit = True
            connection.cursor().execute(f'CREATE DATABASE "{name}"')
        return self.postgres_url.removesuffix(embedded.DATABASE) + name

    def configure_stub(self, speed: model_stub.Speed) -> None:
        """From now on the model answers this fast."""
        answer = importer.Api(self.stub_url, "").request("POST", "/config", asdict(speed))
        if answer.status != 200:
            raise LoadFailed(f"the model stub answered {answer.status} {answer.body}")


@contextlib.contextmanager
def prepared() -> Iterator[Ground]:
    """A model stub and a durable PostgreSQL, both gone afterwards. Raises EmbeddedServerFailed and LoadFailed."""
    DATA.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="run-", dir=DATA))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        postgres = folder / "postgres"
        port = own_app.free_port()
        local = stack.enter_context(embedded.running(postgres, max_connections=CONNECTIONS, tcp_port=port))
        url = f"postgresql://{embedded.SUPERUSER}:{_new_password(local)}@127.0.0.1:{port}/{embedded.DATABASE}"
        pid = int((postgres / "cluster" / "postmaster.pid").read_text().split()[0])
        yield Ground(folder, url, pid, stack.enter_context(stub()))


def _new_password(database_url: str) -> str:
    password = secrets.token_hex(16)
    with contextlib.closing(psycopg2.connect(database_url)) as connection, connection, connection.cursor() as cursor:
        superuser = sql.Identifier(embedded.SUPERUSER)
        cursor.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(superuser, sql.Literal(password)))
    return password


@contextlib.contextmanager
def stub() -> Iterator[str]:
    """The URL of a running model stub. Raises LoadFailed."""
    command = [sys.executable, "-m", "bench.model_stub"]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline().strip()
            if not port:
                raise LoadFailed("the model stub did not start")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)


def play(job: load.Job) -> dict[str, Any]:
    """What the load generator says of one job. Raises LoadFailed."""
    finished = subprocess.run(
        [sys.executable, "-m", "bench.load"],
        cwd=PROJECT,
        input=json.dumps(asdict(job)),
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode:
        raise LoadFailed(f"the load generator ended with {finished.returncode}: {finished.stderr[-2000:]}")
    result: Mapping[str, Any] = json.loads(finished.stdout)
    return dict(result)
