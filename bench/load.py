"""The customers: a process of its own that plays conversations against one server and says how it went.

    python -m bench.load < job.json > result.json

A closed loop: each client writes its next message as soon as the last one is answered. Their number, the length of the
play and the rest stand in `Job`. A turn's overhead is its latency less the time in which its own model calls ran, which
the model stub knows from the mark at the end of each message.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench import http_client, scenario, scores, stub_stats, usage

TURN_TIMEOUT_SECONDS = 120.0
FAULTS_SHOWN = 3
PAUSE_AFTER_FAULT_SECONDS = 0.1  # refusals at full speed would be a load of another kind
SHARES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True)
class Job:
    """What to play. `body` is sent with each message; turns count that end in the `seconds` after the warm-up, in
    whose first half the clients join one after the other. CPU is taken of the trees in `pids` by their names. With a
    `user_id` everything is said by that customer, else every conversation is a new one's."""

    url: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    stub_url: str
    clients: int
    seconds: float
    warmup_seconds: float
    is_streaming: bool = False
    user_id: str | None = None
    pids: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Turn:
    """One message and what came of it; times on the machine's monotonic clock."""

    turn_id: str
    started: float
    ended: float
    fault: str | None
    first_token: float | None


class Play:
    """One run of a job."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._conversations = scenario.conversations()
        self._count = 0
        self._begin = self._end = 0.0
        self.turns: list[Turn] = []

    async def run(self) -> dict[str, Any]:
        """The result, as JSON values."""
        job = self._job
        async with http_client.Connection(job.stub_url) as stub:
            await _call(stub, "/reset")
            started = time.monotonic()
            self._begin = started + job.warmup_seconds
            self._end = self._begin + job.seconds
            clients = [asyncio.create_task(self._client(number)) for number in range(job.clients)]
            cpu = await self._cpu_of_window()
            await asyncio.gather(*clients)
            known = await _call(stub, "/turns")
            seen = await _call(stub, "/stats")
        return {**self._result(known), "cpu_seconds": cpu, "stub": seen}

    async def _cpu_of_window(self) -> dict[str, float]:
        names = {**self._job.pids}
        before = await self._cpu_at(self._begin, names)
        after = await self._cpu_at(self._end, names)
        return {name: round(after[name] - before[name], 3) for name in after}

    async def _cpu_at(self, moment: float, pids: Mapping[str, int]) -> dict[str, float]:
        await asyncio.sleep(max(0.0, moment - time.monotonic()))
        loop = asyncio.get_running_loop()
        taken = {name: await loop.run_in_executor(None, usage.cpu_seconds, pid) for name, pid in pids.items()}
        return {**taken, "load": time.process_time()}

    async def _client(self, number: int) -> None:
        await asyncio.sleep(self._job.warmup_seconds / 2 * number / self._job.clients)
        async with http_client.Connection(self._job.url) as connection:
            for user_id, message in self._messages():
                if time.monotonic() >= self._end:
                    return
                self.turns.append(await self._turn(connection, user_id, message))
                if self.turns[-1].fault is not None:
                    await connection.close()
                    await asyncio.sleep(PAUSE_AFTER_FAULT_SECONDS)

    def _messages(self) -> Iterator[tuple[str, str]]:
        while True:
            user_id = self._job.user_id or scenario.new_user()
            yield from ((user_id, message) for message in next(self._conversations))

    async def _turn(self, connection: http_client.Connection, user_id: str, message: str) -> Turn:
        self._count += 1
        turn_id = f"t{self._count}"
        body = {**self._job.body, "user_id": user_id, "message": f"{message} {stub_stats.mark(turn_id)}"}
        started, fault, first_token = time.monotonic(), None, None
        try:
            async with asyncio.timeout(TURN_TIMEOUT_SECONDS):
                reply, first_token = await self._reply(connection, json.dumps(body).encode())
            fault = _fault(reply)
        except (OSError, EOFError, ValueError, TimeoutError, http_client.BadAnswer, BadReply) as problem:
            fault = f"{type(problem).__name__}: {problem}"
        return Turn(turn_id, started, time.monotonic(), fault, first_token)

    async def _reply(self, connection: http_client.Connection, body: bytes) -> tuple[Any, float | None]:
        """The reply's JSON, and when its first token came if it was streamed."""
        headers = {"Content-Type": "application/json", **self._job.headers}
        if self._job.is_streaming:
            headers["Accept"] = "text/event-stream"
        answer = await connection.send("POST", self._job.path, body, headers)
        if answer.status == 200 and answer.headers.get("content-type", "").startswith("text/event-stream"):
            return await _streamed(answer)
        content = await answer.body()
        if answer.status != 200:
            raise BadReply(f"{answer.status} {content[:200].decode(errors='replace')}")
        if self._job.is_streaming:
            raise BadReply("200, but not a stream")
        return json.loads(content), None

    def _result(self, known: Mapping[str, Any]) -> dict[str, Any]:
        faults = Counter(turn.fault.partition("\n")[0] for turn in self.turns if turn.fault)
        counted = [turn for turn in self.turns if not turn.fault and self._begin <= turn.ended <= self._end]
        rows = [(turn, known[turn.turn_id]) for turn in counted if turn.turn_id in known]
        return {
            "turns": len(counted),
            "turns_per_second": round(len(counted) / self._job.seconds, 2),
            "errors": sum(faults.values()),
            "faults": dict(faults.most_common(FAULTS_SHOWN)),
            "latency_ms": spread((turn.ended - turn.started) * 1000 for turn in counted),
            "overhead_ms": spread((turn.ended - turn.started - row["busy_seconds"]) * 1000 for turn, row in rows),
            "first_token_lag_ms": spread(
                (turn.first_token - row["first_token"]) * 1000 for turn, row in rows if turn.first_token is not None
            ),
            "calls_per_turn": _mean([row["calls"] for _, row in rows]),
            "calls_in_sequence": _mean([row["in_sequence"] for _, row in rows]),
            "prompt_bytes_per_turn": _mean([row["prompt_bytes"] for _, row in rows]),
        }


class BadReply(Exception):
    """The server answered, but not with a reply."""


def spread(values: Iterator[float]) -> dict[str, float | None]:
    """Percentiles, rounded to a thousandth."""
    given = list(values)
    found = {name: scores.percentile(given, share) for name, share in SHARES.items()}
    return {name: None if value is None else round(value, 3) for name, value in found.items()}


def _mean(values: list[float]) -> float | None:
    return round(sum(values) / len(values), 3) if values else None


def _fault(reply: Any) -> str | None:
    """Why a 200 is no good reply: the seed says so in its text only."""
    if not isinstance(reply, dict) or not reply.get("response"):
        return f"no response in {str(reply)[:200]}"
    if reply.get("degraded"):
        return "degraded"
    return "error in the text" if reply["response"] == "Error generating response" else None


async def _streamed(answer: http_client.Answer) -> tuple[Any, float | None]:
    reply, first_token = None, None
    async for name, data in _events(answer):
        if name == "token" and first_token is None:
            first_token = time.monotonic()
        elif name in {"done", "error"}:
            reply = name, data
    if reply is None or reply[0] == "error":
        raise BadReply(f"the stream ended with {str(reply)[:200]}")
    return json.loads(reply[1]), first_token


async def _events(answer: http_client.Answer) -> AsyncIterator[tuple[str, str]]:
    """Server-Sent Events: name and data."""
    buffer = b""
    async for chunk in answer.chunks():
        buffer += chunk
        while b"\n\n" in buffer:
            event, _, buffer = buffer.partition(b"\n\n")
            lines = [line.partition(b":") for line in event.splitlines()]
            parts = {name.decode(): value.strip().decode() for name, _, value in lines if name}
            yield parts.get("event", "message"), parts.get("data", "")


async def _call(stub: http_client.Connection, path: str) -> Any:
    return json.loads(await (await stub.send("GET", path)).body())


def main() -> int:
    """Play the job that stands on standard input."""
    job = Job(**json.load(sys.stdin))
    json.dump(asyncio.run(Play(job).run()), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
