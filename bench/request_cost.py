"""Command line: what one plain request costs the app, in CPU of its processes, beside another copy of the project.

python -m bench.request_cost [--before FOLDER] [--rounds 20] [--requests 200]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import secrets
import statistics
import sys
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench import ground, http_client, importer, own_app, systems, usage

KEYS = 16  # one key may make 100 requests a second, and so may one address
ADDRESSES = 250
CLIENTS = (1, 16)


@dataclass(frozen=True)
class Subject:
    """A running app with one business and one product."""

    app: own_app.Served
    business_id: str
    path: str
    keys: Sequence[str]

    def get(self, number: int) -> tuple[str, str, bytes, dict[str, str]]:
        """The request of that number for the product, with one of the business's keys."""
        return "GET", self.path, b"", {"Authorization": f"Bearer {self.keys[number % KEYS]}"}

    def post(self, number: int) -> tuple[str, str, bytes, dict[str, str]]:
        """The request of that number that sends one event."""
        event = {
            "event_id": str(uuid.uuid4()),
            "business_id": self.business_id,
            "event_type": "page_view",
            "event_timestamp": datetime.now(UTC).isoformat(),
            "user_id": str(uuid.uuid4()),
            "event_data": {"page": "/books/42", "position": number},
        }
        address = f"10.0.0.{number % ADDRESSES}"
        headers = {"Content-Type": "application/json", "X-Forwarded-For": address}
        return "POST", "/api/v1/events", json.dumps(event).encode(), headers


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table: medians of the rounds in milliseconds of CPU a request, and their ratio."""
    parser = argparse.ArgumentParser(prog="request_cost")
    parser.add_argument("--before", type=Path, help="another copy of the project, measured in turn with this one")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--requests", type=int, default=200, help="in each measurement")
    options = parser.parse_args(arguments)
    folders = {"now": ground.PROJECT} | ({"before": options.before.resolve()} if options.before else {})
    with contextlib.ExitStack() as stack:
        base = stack.enter_context(ground.prepared())
        subjects = {name: stack.enter_context(_subject(base, name, folder)) for name, folder in folders.items()}
        costs = _measured(subjects, options.rounds, options.requests)
    _print(costs, list(subjects))
    return 0


@contextlib.contextmanager
def _subject(base: ground.Ground, name: str, folder: Path) -> Iterator[Subject]:
    further = {"TRUSTED_PROXIES": "127.0.0.1"}
    with systems.served(base, base.database(name), further, folder) as (app, master):
        about = {"business_name": name, "owner_id": str(uuid.uuid4())}
        created = importer.create(master, "/api/v1/businesses", about)
        business_id = created["business_id"]
        keys = f"/api/v1/businesses/{business_id}/api-keys"
        made = [importer.create(master, keys, {"name": secrets.token_hex(4)})["api_key"] for _ in range(KEYS)]
        owner = importer.Api(app.url, made[0])
        product = importer.create(owner, "/api/v1/products", {"name": "Tent", "attributes": {"colour": "green"}})
        yield Subject(app, business_id, f"/api/v1/products/{product['product_id']}", made)


def _measured(subjects: dict[str, Subject], rounds: int, requests: int) -> dict[tuple[str, int, str], list[float]]:
    costs: dict[tuple[str, int, str], list[float]] = {}
    for number in range(-1, rounds):  # the first one only warms up
        names = list(subjects) if number % 2 else list(subjects)[::-1]
        for kind, clients, name in itertools.product(("get", "post"), CLIENTS, names):
            spent = asyncio.run(_cost(subjects[name], kind, clients, requests if number >= 0 else 200))
            if number >= 0:
                costs.setdefault((kind, clients, name), []).append(spent)
                print(f"round {number + 1}: {kind}, {clients} clients, {name}: {spent:.3f} ms", file=sys.stderr)
    return costs


async def _cost(subject: Subject, kind: str, clients: int, requests: int) -> float:
    """Milliseconds of CPU a request."""
    numbers = iter(range(requests))
    before = usage.cpu_seconds(subject.app.pid)
    await asyncio.gather(*(_play(subject, kind, numbers) for _ in range(clients)))
    return (usage.cpu_seconds(subject.app.pid) - before) * 1000 / requests


async def _play(subject: Subject, kind: str, numbers: Iterator[int]) -> None:
    wanted = 200 if kind == "get" else 201
    async with http_client.Connection(subject.app.url) as connection:
        for number in numbers:
            answer = await connection.send(*getattr(subject, kind)(number))
            body = await answer.body()
            if answer.status != wanted:
                raise ground.LoadFailed(f"{kind} was answered {answer.status}: {body[:300]!r}")


def _print(costs: dict[tuple[str, int, str], list[float]], names: list[str]) -> None:
    print("| request | clients | " + " | ".join(f"{name}, ms CPU" for name in names) + " | ratio |")
    print("|---|---" + "|---" * len(names) + "|---|")
    for kind, clients in itertools.product(("get", "post"), CLIENTS):
        each = {name: costs[kind, clients, name] for name in names}
        pairs = zip(each["now"], each.get("before", each["now"]), strict=True)
        ratio = statistics.median(now / before for now, before in pairs)
        shown = " | ".join(f"{statistics.median(each[name]):.3f}" for name in names)
        print(f"| {kind} | {clients} | {shown} | {ratio:.3f} |")


if __name__ == "__main__":
    sys.exit(main())
