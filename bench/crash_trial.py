"""Kill workers, the whole app and PostgreSQL at random moments under load, then prove what became of every message.

    python -m bench.crash_trial --kills 200 --seed 1

Customers send messages with an Idempotency-Key and send them again until they are answered, as clients should. In the
end the database is asked: was an accepted message lost, has one two replies, is a conversation stuck?"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import random
import secrets
import shutil
import signal
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg2

from bench import crash_targets, ground, importer, model_stub, own_app, scenario

CUSTOMERS = 12
LEASE_SECONDS = 2
STOPPED_SECONDS = 3.0  # longer than a lease
PATIENCE_SECONDS = 90
SPEED = model_stub.Speed(first_token_ms=40, token_ms=2, tokens=40)
# What is killed, and how often of a hundred times.
ACTIONS = {"worker": 55, "app": 15, "postgres": 15, "postgres_immediate": 5, "stopped_worker": 10}


@dataclass
class Load:
    """Customers who write and insist; `answered` has key → turn, reply and conversation of each answered message."""

    api: importer.Api
    answered: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    ending: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def customer(self, name: int) -> None:
        """One customer in one conversation, a message at a time, until the trial ends."""
        user_id, session_id, number = str(uuid.uuid4()), f"session-{name}", 0
        while not self.ending.is_set():
            number += 1
            body = {"user_id": user_id, "session_id": session_id, "message": f"Where is my order {name:03}{number:05}?"}
            self._insist(body, key=f"{name}-{number}")

    def _insist(self, body: dict[str, Any], key: str) -> None:
        with self.lock:
            self.sent += 1
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            answer = self.api.request("POST", "/api/v1/messages", body, {"Idempotency-Key": key})
            with self.lock:
                self.statuses[answer.status] += 1
            if answer.status == 200:
                with self.lock:
                    told = answer.body
                    self.answered[key] = (told["turn_id"], told["reply_id"], told["conversation_id"])
                return
            time.sleep(0.2)
        self.faults.append(f"{key} was not answered in {PATIENCE_SECONDS} s")


def main() -> int:
    """Run the trial; 1 when something was lost, doubled or stuck."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--pause", type=float, default=1.0, help="mean seconds between two kills")
    options = parser.parse_args()
    print(f"seed {options.seed}: python -m bench.crash_trial --kills {options.kills} --seed {options.seed}", flush=True)
    with _folder() as folder, ground.stub() as stub_url:
        postgres = crash_targets.Postgres(folder / "pg")
        app = crash_targets.App(_environment(folder, postgres.url, stub_url), folder / "app.log")
        try:
            app.start()
            return _trial(app, postgres, options.kills, random.Random(options.seed), options.pause, stub_url)
        except crash_targets.TrialFailed as fault:
            print(f"FAILED: {fault}")
            return 1
        finally:
            app.kill()
            postgres.close()


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    ground.DATA.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="crash-", dir=ground.DATA))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _environment(folder: Path, database_url: str, stub_url: str) -> dict[str, str]:
    return {
        "PORT": str(own_app.free_port()),
        "ICMP_API_KEY": secrets.token_urlsafe(32),
        "ENCRYPTION_KEY": "trial:" + base64.b64encode(secrets.token_bytes(32)).decode(),
        "DATABASE_URL": database_url,
        "DATA_DIR": str(folder / "data"),
        "OPENAI_BASE_URL": f"{stub_url}/v1",
        "OPENAI_API_KEY": "any",
        "RATE_LIMIT_MESSAGES_PER_MINUTE": "1000000",
        "TURN_LEASE_S": str(LEASE_SECONDS),
        "LOG_LEVEL": "ERROR",
        "WEB_THREADS": "64",
    }


def _trial(
    app: crash_targets.App,
    postgres: crash_targets.Postgres,
    kills: int,
    chance: random.Random,
    pause: float,
    stub_url: str,
) -> int:
    importer.Api(stub_url, "").request("POST", "/config", vars(SPEED))
    business_id, api = _shop(app)
    load, started = Load(api), time.monotonic()
    customers = [threading.Thread(target=load.customer, args=[name]) for name in range(CUSTOMERS)]
    for customer in customers:
        customer.start()
    try:
        done = _kill_at_random(app, postgres, kills, chance, pause)
    finally:
        load.ending.set()
        for customer in customers:
            customer.join()
    faults = load.faults + _proved(postgres.url, business_id, load)
    figures = {
        "kills": dict(done),
        "seconds": round(time.monotonic() - started),
        "messages": load.sent,
        "answered": len(load.answered),
        "answers by status, retries included (0: none)": dict(sorted(load.statuses.items())),
        "faults": faults,
    }
    print(json.dumps(figures, indent=2))
    return 1 if faults else 0


def _shop(app: crash_targets.App) -> tuple[str, importer.Api]:
    master = importer.Api(app.url, app.environment["ICMP_API_KEY"])
    owner = {"owner_id": str(uuid.uuid4()), "business_name": "Trial shop", "business_description": scenario.DESCRIPTION}
    created = importer.create(master, "/api/v1/businesses", owner)
    for stage in scenario.stages(created["business_id"]):
        importer.create(master, "/api/v1/stages", stage)
    return created["business_id"], importer.Api(app.url, created["api_key"])


def _kill_at_random(
    app: crash_targets.App, postgres: crash_targets.Postgres, kills: int, chance: random.Random, pause: float
) -> Counter[str]:
    done: Counter[str] = Counter()
    while done.total() < kills:
        time.sleep(chance.uniform(0, 2 * pause))
        action = chance.choices(list(ACTIONS), list(ACTIONS.values()))[0]
        workers = app.workers()
        if action in {"worker", "stopped_worker"} and workers:
            _strike(chance.choice(workers), action)
        elif action == "app":
            app.kill()
            app.start()
        elif action.startswith("postgres"):
            postgres.kill(signal.SIGQUIT if action == "postgres_immediate" else signal.SIGKILL)
        else:
            continue
        done[action] += 1
        if done.total() % 25 == 0:
            print(f"{done.total()} kills", flush=True)
    return done


def _strike(worker: psutil.Process, action: str) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        if action == "worker":
            worker.kill()
        else:
            worker.suspend()
            threading.Timer(STOPPED_SECONDS, _wake, [worker]).start()


def _wake(worker: psutil.Process) -> None:
    """It goes on when others have taken its turns over."""
    with contextlib.suppress(psutil.NoSuchProcess):
        worker.resume()


def _proved(database_url: str, business_id: str, load: Load) -> list[str]:
    """What the database says against the claim that nothing was lost, doubled or stuck."""
    connection = psycopg2.connect(database_url)
    connection.autocommit = True

    def ask(sql: str) -> list[tuple[Any, ...]]:
        with connection.cursor() as cursor:
            cursor.execute(sql, {"business_id": business_id})
            return cursor.fetchall()

    deadline = time.monotonic() + PATIENCE_SECONDS
    still_open = "SELECT count(*) FROM turns WHERE business_id = %(business_id)s AND state = 'open'"
    while ask(still_open) != [(0,)] and time.monotonic() < deadline:
        time.sleep(0.5)
    questions = {
        "turns still open": still_open,
        "turns that failed": "SELECT count(*) FROM turns WHERE business_id = %(business_id)s AND state = 'failed'",
        "messages without exactly one reply": "SELECT count(*) FROM (SELECT count(*) FILTER (WHERE sender_type = 'ai')"
        " AS replies, count(*) FILTER (WHERE sender_type = 'user') AS messages FROM messages"
        " WHERE business_id = %(business_id)s GROUP BY turn_id) t WHERE replies <> 1 OR messages <> 1",
        "replies out of order": "SELECT count(*) FROM (SELECT t.number, lag(m.sequence) OVER (PARTITION BY"
        " m.conversation_id ORDER BY t.number) > m.sequence AS is_early FROM messages m JOIN turns t USING"
        " (business_id, turn_id) WHERE m.business_id = %(business_id)s AND m.sender_type = 'ai') o WHERE is_early",
    }
    faults = [f"{what}: {count}" for what, sql in questions.items() if (count := ask(sql)[0][0])]
    stored = {
        row[0]: row[1]
        for row in ask(
            "SELECT turn_id::text, message_id::text FROM messages"
            " WHERE business_id = %(business_id)s AND sender_type = 'ai'"
        )
    }
    lost = [key for key, (turn_id, reply_id, _) in load.answered.items() if stored.get(turn_id) != reply_id]
    stored_twice = len(stored) - load.sent
    faults += [f"answered messages that are not stored so: {len(lost)}"] if lost else []
    faults += [f"more or fewer turns than messages: {stored_twice}"] if stored_twice else []
    connection.close()
    return faults


if __name__ == "__main__":
    raise SystemExit(main())
