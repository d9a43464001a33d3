"""What encryption costs a turn: counts and times every value sealed and opened while turns run on the offline model.

    python -m bench.encryption_cost [turns]

Needs nothing: it starts a database of its own. Prints one JSON object; times in microseconds of processor time, which a
busy machine does not lengthen, and for the turn of the clock as well.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import app as application
from api.settings import from_environment
from db import embedded, migrate
from db.cipher import Cipher

MASTER_KEY = "k" * 40
SIZES = (100, 500, 2_000, 10_000, 32_000)
STAGE = {
    "stage_name": "order_status",
    "stage_type": "information",
    "stage_description": "The customer asks where an order or parcel is.",
    "data_extraction": {
        "output_schema": {
            "type": "object",
            "properties": {"order_number": {"type": "string", "pattern": "^[0-9]{4,}$"}},
            "required": ["order_number"],
        }
    },
}


@dataclass
class Meter:
    """How often a method of Cipher ran, and for how long."""

    calls: int = 0
    seconds: float = 0.0
    size: int = 0


def main(turns: int) -> None:
    """Measure and print."""
    # As durable as in production: what a turn waits for the disk is part of its time.
    with (
        tempfile.TemporaryDirectory(prefix="icmp-") as folder,
        embedded.running(Path(folder) / "data", durable=True) as url,
    ):
        migrate.apply(url)
        print(json.dumps({"per_value": per_value(), **per_turn(url, turns)}, indent=1))


def per_value() -> list[dict[str, float]]:
    """Sealing and opening one text, by its length in bytes."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    key_id, rounds, found = str(uuid.uuid4()), 2_000, []
    cipher = Cipher(str(uuid.uuid4()), {key_id: AESGCM(os.urandom(32))}, key_id)
    for size in SIZES:
        text = "a" * size
        sealed = cipher.encrypt("messages", "message_content", key_id, text)
        place = ("messages", "message_content", key_id)
        seal = _mean_us(functools.partial(cipher.encrypt, *place, text), rounds)
        unseal = _mean_us(functools.partial(cipher.decrypt, *place, sealed), rounds)
        found.append({"bytes": size, "seal_us": seal, "unseal_us": unseal})
    return found


def per_turn(url: str, turns: int) -> dict[str, Any]:
    """Turns of one conversation through the whole app, without a socket, one after the other."""
    keys = {"ICMP_API_KEY": MASTER_KEY, "ENCRYPTION_KEY": f"k1:{base64.b64encode(os.urandom(32)).decode()}"}
    limits = {"RATE_LIMIT_MESSAGES_PER_MINUTE": "1000000", "LOG_LEVEL": "ERROR"}
    app = application.create_app(from_environment(keys | limits | {"DATABASE_URL": url}))
    browser = app.test_client()
    owner = {"owner_id": str(uuid.uuid4()), "business_name": "Bench"}
    created = browser.post("/api/v1/businesses", json=owner, headers=_bearer(MASTER_KEY)).get_json()
    headers, body = _bearer(created["api_key"]), {"user_id": str(uuid.uuid4()), "message": "Where is order 4411?"}
    browser.post("/api/v1/stages", json=STAGE, headers=headers)
    for _ in range(10):
        browser.post("/api/v1/messages", json=body, headers=headers)
    meters = {name: _metered(name) for name in ("encrypt", "decrypt")}
    started, worked = time.perf_counter(), time.process_time()
    for _ in range(turns):
        answer = browser.post("/api/v1/messages", json=body, headers=headers)
        assert answer.status_code == 200, answer.get_json()
    turn_us = (time.process_time() - worked) / turns * 1e6
    clock_us = (time.perf_counter() - started) / turns * 1e6
    app.extensions["icmp"].database.close()
    spent_us = sum(meter.seconds for meter in meters.values()) / turns * 1e6
    return {
        "turns": turns,
        "turn_us": round(turn_us),
        "turn_us_by_the_clock": round(clock_us),
        "encryption_us_per_turn": round(spent_us, 1),
        "share_of_turn_with_offline_model": round(spent_us / turn_us, 4),
        **{
            name: {
                "per_turn": round(meter.calls / turns, 1),
                "bytes_each": round(meter.size / meter.calls),
                "us_each": round(meter.seconds / meter.calls * 1e6, 1),
            }
            for name, meter in meters.items()
        },
    }


def _metered(name: str) -> Meter:
    """Have a method of Cipher count and time itself from now on; its size is that of the stored value."""
    meter, original = Meter(), getattr(Cipher, name)

    def timed(self: Cipher, table: str, column: str, row_id: str, value: Any) -> Any:
        started = time.thread_time()
        result = original(self, table, column, row_id, value)
        meter.seconds += time.thread_time() - started
        meter.calls += 1
        meter.size += len(result if name == "encrypt" else value)
        return result

    setattr(Cipher, name, timed)
    return meter


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def _mean_us(work: Callable[[], object], rounds: int) -> float:
    started = time.thread_time()
    for _ in range(rounds):
        work()
    return round((time.thread_time() - started) / rounds * 1e6, 2)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
