"""What ICMP is compared with: the seed's own program, and the same three steps on LangGraph."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from bench import ground, importer, own_app, scenario, tools
from bench.system import THREADS, WORKERS, System

SEED_DOCUMENT = ground.PROJECT.parent / "shared" / "SEED.md"
# The seed opens a connection for each turn that it runs: with more threads than this, PostgreSQL has none left.
SEED_THREADS = 45
POOL_SIZE = 8  # connections of each process, as ICMP's
_PROGRAM = re.compile(r"^app\.py content:\n\{\n(?P<program>.*)\n\}\s*\Z", re.DOTALL | re.MULTILINE)
_WITHOUT_LIMITER = '''"""The seed's application, its limit of 100 requests a day switched off."""
import app

app.limiter.enabled = False
application = app.app
'''


class SeedIsAbsent(Exception):
    """The document that holds the seed's program is not on this machine, or holds it no more."""


@contextlib.contextmanager
def seed(base: ground.Ground) -> Iterator[System]:
    """The seed's app.py as it stands in its document. Raises SeedIsAbsent."""
    folder = base.folder / "seed"
    folder.mkdir()
    (folder / "app.py").write_text(_seed_program(), encoding="utf-8")
    (folder / "without_limiter.py").write_text(_WITHOUT_LIMITER, encoding="utf-8")
    database_url, programs = base.database("seed"), tools.environment("seed")
    database = urlsplit(database_url)
    environment = {
        "OPENAI_API_KEY": "any",
        "OPENAI_BASE_URL": f"{base.stub_url}/v1",
        "ICMP_API_KEY": "any",
        "DB_NAME": "seed",
        "DB_USER": str(database.username),
        "DB_PASSWORD": str(database.password),
        "DB_HOST": str(database.hostname),
        "DB_PORT": str(database.port),
    }
    _run([str(programs / "python"), "-c", "import app; app.setup_database()"], folder, environment)
    with _served(programs, "without_limiter:application", SEED_THREADS, folder, environment) as app:
        body = _open_seed_shop(importer.Api(app.url, ""))
        yield System("seed", app.url, "/message", app.pid, database_url, body=body)


@contextlib.contextmanager
def langgraph(base: ground.Ground) -> Iterator[System]:
    """LangGraph with PostgresSaver behind Flask."""
    folder = base.folder / "langgraph"
    folder.mkdir()
    shop = {"description": scenario.DESCRIPTION, "stages": scenario.subjects()}
    (folder / "shop.json").write_text(json.dumps(shop), encoding="utf-8")
    database_url, programs = base.database("langgraph"), tools.environment("langgraph")
    environment = {
        "OPENAI_API_KEY": "any",
        "OPENAI_BASE_URL": f"{base.stub_url}/v1",
        "DATABASE_URL": database_url,
        "SHOP": str(folder / "shop.json"),
        "POOL_SIZE": str(POOL_SIZE),
        "LANGSMITH_TRACING": "false",
    }
    here = Path(__file__).parent
    _run([str(programs / "python"), "langgraph_app.py"], here, environment)
    with _served(programs, "langgraph_app:create_app()", THREADS, here, environment) as app:
        yield System("langgraph", app.url, "/message", app.pid, database_url, body={"business_id": str(uuid.uuid4())})


@contextlib.contextmanager
def _served(
    programs: Path, application: str, threads: int, folder: Path, environment: Mapping[str, str]
) -> Iterator[own_app.Served]:
    port = own_app.free_port()
    command = [str(programs / "gunicorn"), "--bind", f"127.0.0.1:{port}", "--worker-class", "gthread"]
    command += ["--workers", str(WORKERS), "--threads", str(threads), "--keep-alive", "75"]
    command += ["--worker-tmp-dir", "/dev/shm"] if Path("/dev/shm").is_dir() else []  # noqa: S108 — as ICMP's own
    log = Path(environment.get("SHOP", folder / "app.py")).with_name("output.log")
    command += ["--no-control-socket", application]
    with own_app.served(command, port, environment, log, ready_path="/", folder=folder) as app:
        yield app


def _seed_program() -> str:
    if not SEED_DOCUMENT.is_file():
        raise SeedIsAbsent(f"{os.path.relpath(SEED_DOCUMENT, ground.PROJECT)} is not there")
    found = _PROGRAM.search(SEED_DOCUMENT.read_text(encoding="utf-8"))
    if found is None:
        raise SeedIsAbsent(f"{os.path.relpath(SEED_DOCUMENT, ground.PROJECT)} holds no app.py")
    return found["program"] + "\n"


def _open_seed_shop(api: importer.Api) -> dict[str, str]:
    business = {"owner_id": str(uuid.uuid4()), "business_name": "Outdoor shop"}
    business_id = importer.create(api, "/businesses", business)["business_id"]
    for name, about in scenario.subjects().items():
        stage = {"stage_name": name, "stage_description": about["description"], "stage_type": "information"}
        importer.create(api, "/stages", {"business_id": business_id, **stage})
    return {"business_id": business_id}


def _run(command: list[str], folder: Path, environment: Mapping[str, str]) -> None:
    subprocess.run(command, cwd=folder, env=os.environ | dict(environment), check=True, capture_output=True)
