"""Figures 9 and 10: what a turn costs in a database that has grown, and how many events a second are taken."""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import json
import os
import secrets
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import psycopg2

from bench import ground, importer, measures, own_app, systems
from bench.system import System

GROWN_AT_MOST = 1.3
EVENTS_IN_ARRAYS = 2000
EVENTS_SINGLE = 400
STAGES = 50
ALONE = measures.LOADS["alone_at_once"]
BESIDE = measures.Load("8 clients, real model", 8, measures.REAL, 3, 10)


@dataclass(frozen=True)
class Size:
    """How large a database is made."""

    messages: int
    businesses: int


FULL, SMALL = Size(1_000_000, 10_000), Size(20_000, 200)


def figure_9(is_quick: bool) -> Iterator[str]:
    """A turn's overhead in a large database against an empty one."""
    if not _is_there("big_database"):
        yield "SKIP bench/big_database.py is not there"
        return
    results = grown(SMALL if is_quick else FULL, rounds=1 if is_quick else 3)
    empty = _overhead(results["empty"])
    for name in ("the same shop", f"{STAGES} stages, 1,000 messages"):
        ratio = _overhead(results[name]) / empty
        prompt = statistics.median(each["prompt_bytes_per_turn"] for each in results[name])
        verdict = "PASS" if ratio <= GROWN_AT_MOST else "FAIL"
        yield f"{verdict} overhead p50, {name}: {ratio:.2f} × (at most {GROWN_AT_MOST}), {prompt:,.0f} bytes of prompts"


def figure_10(is_quick: bool) -> Iterator[str]:
    """Events in arrays and single, and messages beside them."""
    if not _is_there("events"):
        yield "SKIP bench/events.py is not there"
        return
    seconds = 3 if is_quick else 10
    with ground.prepared() as base, opened_shop(base, base.postgres_url, {"TRUSTED_PROXIES": "127.0.0.1"}) as (shop, _):
        base.configure_stub(BESIDE.speed)
        arrays = _reported(_events(shop, size=100, seconds=seconds))["events_per_second"]
        single = _reported(_events(shop, size=1, seconds=seconds))["requests_per_second"]
        alone = measures.played(base, shop, BESIDE)
        window = BESIDE.warmup_seconds + BESIDE.seconds
        sending = _events(shop, size=100, seconds=window, connections=1)
        beside = measures.played(base, shop, BESIDE)
        _reported(sending)
    slower = beside["latency_ms"]["p50"] / alone["latency_ms"]["p50"]
    yield _verdict("events/s in arrays of 100", arrays, arrays >= EVENTS_IN_ARRAYS, f"at least {EVENTS_IN_ARRAYS:,}")
    yield _verdict("single events/s", single, single >= EVENTS_SINGLE, f"at least {EVENTS_SINGLE}")
    yield _verdict("messages beside events, ×", slower, slower <= GROWN_AT_MOST, f"at most {GROWN_AT_MOST}")


def grown(size: Size, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """One client at no latency, by where: in an empty database, in a grown one as the same shop, and there as a
    business of many stages in a conversation of a thousand messages."""
    key = "bench:" + base64.b64encode(secrets.token_bytes(32)).decode()
    further = {"ENCRYPTION_KEY": key}
    results: dict[str, list[dict[str, Any]]] = {}
    with ground.prepared() as base:
        grown_url = base.database("grown")
        made = filled(grown_url, size, key)
        base.configure_stub(ALONE.speed)
        with (
            opened_shop(base, base.postgres_url, further) as (empty, _),
            opened_shop(base, grown_url, further) as (same, master),
        ):
            wide = _wide(same, master, made["businesses"]["wide"])
            for number in range(rounds):
                for name, shop in (
                    ("empty", empty),
                    ("the same shop", same),
                    (f"{STAGES} stages, 1,000 messages", wide),
                ):
                    measures.tell(f"round {number + 1} of {rounds}: {size.messages:,} messages, {name}")
                    results.setdefault(name, []).append(measures.played(base, shop, ALONE))
    return results


@contextlib.contextmanager
def opened_shop(
    base: ground.Ground, database_url: str, further: dict[str, str]
) -> Iterator[tuple[System, importer.Api]]:
    """A new shop in this database, served with these `further` variables, and its master."""
    with systems.served(base, database_url, further) as (app, master):
        yield systems.shop(app, master, database_url), master


def filled(database_url: str, size: Size, encryption_key: str) -> Any:
    """Fill an empty database; what was made."""
    measures.tell(f"filling a database with {size.messages:,} messages")
    command = [sys.executable, "-m", "bench.big_database", "--database-url", database_url, "--events", "0"]
    command += ["--messages", str(size.messages), "--businesses", str(size.businesses), "--stages", str(STAGES)]
    environment = os.environ | {"ICMP_API_KEY": secrets.token_urlsafe(32), "ENCRYPTION_KEY": encryption_key}
    run = subprocess.run(command, cwd=ground.PROJECT, env=environment, capture_output=True, text=True, check=False)
    if run.returncode:
        raise ground.LoadFailed(f"big_database ended with {run.returncode}: {run.stderr[-2000:]}")
    return json.loads(run.stdout)


def _wide(grown_shop: System, master: importer.Api, business_id: str) -> System:
    """The business of many stages, in its longest conversation."""
    created = importer.create(master, f"/api/v1/businesses/{business_id}/api-keys", {"name": "bench"})
    with contextlib.closing(psycopg2.connect(grown_shop.database_url)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "UPDATE conversations SET status = 'active' WHERE business_id = %s AND conversation_id = (SELECT"
            "  conversation_id FROM conversations WHERE business_id = %s ORDER BY turn_count DESC LIMIT 1)"
            " RETURNING conversation_id, user_id",
            [business_id, business_id],
        )
        conversation_id, user_id = cursor.fetchone() or ("", "")
        connection.commit()
    app = own_app.Served(grown_shop.url, grown_shop.pid, ground.DATA)
    wide = systems.business(app, grown_shop.database_url, business_id, created["api_key"])
    return replace(wide, body={**wide.body, "conversation_id": conversation_id}, user_id=user_id)


def _events(shop: System, *, size: int, seconds: float, connections: int = 8) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bench.events", "--url", shop.url, "--business-id", shop.body["business_id"]]
    command += ["--size", str(size), "--seconds", str(seconds), "--connections", str(connections)]
    return subprocess.Popen(command, cwd=ground.PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _reported(sending: subprocess.Popen[str]) -> Any:
    output, errors = sending.communicate()
    if sending.returncode:
        raise ground.LoadFailed(f"events ended with {sending.returncode}: {output[-500:]}{errors[-1000:]}")
    return json.loads(output)


def _overhead(rounds: list[dict[str, Any]]) -> float:
    return float(statistics.median(each["overhead_ms"]["p50"] for each in rounds))


def _verdict(name: str, value: float, is_good: bool, target: str) -> str:
    return f"{'PASS' if is_good else 'FAIL'} {name} {value:,.2f} ({target})"


def _is_there(module: str) -> bool:
    return importlib.util.find_spec(f"bench.{module}") is not None
