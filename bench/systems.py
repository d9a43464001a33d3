"""The systems that are measured: how each is started in its production shape, and how its customers reach it."""

from __future__ import annotations

import base64
import contextlib
import secrets
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from bench import ground, importer, own_app, peers, scenario
from bench.system import THREADS, WORKERS, System

ICMP = "icmp"


@contextlib.contextmanager
def icmp(base: ground.Ground) -> Iterator[System]:
    """This project, as `python app.py serve` starts it, with one business of five stages."""
    with served(base, base.postgres_url, {}) as (app, master):
        yield shop(app, master, base.postgres_url)


@contextlib.contextmanager
def served(
    base: ground.Ground, database_url: str, further: Mapping[str, str], folder: Path = ground.PROJECT
) -> Iterator[tuple[own_app.Served, importer.Api]]:
    """This project, or the copy of it in another `folder`, on a database, with these `further` variables, and its
    master."""
    port, master_key = own_app.free_port(), secrets.token_urlsafe(32)
    environment = {
        "PORT": str(port),
        "ICMP_API_KEY": master_key,
        "ENCRYPTION_KEY": "bench:" + base64.b64encode(secrets.token_bytes(32)).decode(),
        "DATABASE_URL": database_url,
        "MIGRATION_DATABASE_URL": "",
        "RATE_LIMIT_STORAGE_URI": "",
        "DATA_DIR": str(base.folder / "icmp"),
        "OPENAI_BASE_URL": f"{base.stub_url}/v1",
        "OPENAI_API_KEY": "any",
        "RATE_LIMIT_MESSAGES_PER_MINUTE": "1000000",
        "WEB_CONCURRENCY": str(WORKERS),
        "WEB_THREADS": str(THREADS),
        "LOG_LEVEL": "INFO",
        **further,
    }
    command = [sys.executable, "app.py", "serve"]
    with own_app.served(command, port, environment, base.folder / f"icmp-{port}.log", folder=folder) as app:
        yield app, importer.Api(app.url, master_key)


def shop(app: own_app.Served, master: importer.Api, database_url: str) -> System:
    """A new business of five stages, as its customers reach it."""
    name = f"Outdoor shop {uuid.uuid4().hex[:8]}"
    about = {"business_name": name, "business_description": scenario.DESCRIPTION}
    created = importer.create(master, "/api/v1/businesses", {"owner_id": str(uuid.uuid4()), **about})
    for stage in scenario.stages(created["business_id"]):
        importer.create(master, "/api/v1/stages", stage)
    return business(app, database_url, created["business_id"], created["api_key"])


def business(app: own_app.Served, database_url: str, business_id: str, api_key: str) -> System:
    """One business of a running app."""
    headers = {"Authorization": f"Bearer {api_key}"}
    return System(ICMP, app.url, "/api/v1/messages", app.pid, database_url, headers, {"business_id": business_id})


STARTS: dict[str, Callable[[ground.Ground], AbstractContextManager[System]]] = {
    ICMP: icmp,
    "seed": peers.seed,
    "langgraph": peers.langgraph,
}
