"""What the model stub has seen: its calls, how many ran at once, and which calls belong to which turn."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

MARK = b"[turn "  # a customer's message ends with `[turn <id>]`; the last one in a request says whose call it is


def mark(turn_id: str) -> str:
    """What a message ends with so that its model calls are known as its own."""
    return f"{MARK.decode()}{turn_id}]"


def turn_of(body: bytes) -> str | None:
    """The turn that a request belongs to."""
    start = body.rfind(MARK)
    end = body.find(b"]", start)
    return None if start < 0 or end < 0 else body[start + len(MARK) : end].decode(errors="replace")


@dataclass
class Call:
    """One answered or running call; times on the machine's monotonic clock, None until they come."""

    turn: str | None
    started: float
    body_bytes: int
    first_token: float | None = None
    ended: float | None = None


@dataclass
class Stats:
    """Since the last reset."""

    calls: list[Call] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    abandoned: int = 0
    cpu_started: float = field(default_factory=time.process_time)

    def begin(self, turn: str | None, body_bytes: int) -> Call:
        """A call has arrived."""
        call = Call(turn, time.monotonic(), body_bytes)
        self.calls.append(call)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        return call

    def end(self, call: Call) -> None:
        """Its last byte is written."""
        call.ended = time.monotonic()
        self.running -= 1

    def abandon(self) -> None:
        """Its client hung up."""
        self.running -= 1
        self.abandoned += 1

    def summary(self) -> dict[str, Any]:
        """Counts, and the stub's own CPU seconds."""
        cpu = time.process_time() - self.cpu_started
        named = {"calls": len(self.calls), "running": self.running, "most_running": self.most_running}
        return {**named, "abandoned": self.abandoned, "cpu_seconds": round(cpu, 3)}

    def turns(self) -> dict[str, dict[str, Any]]:
        """By turn: its calls, the longest chain of calls that each began after the one before had ended, the seconds in
        which at least one was running, the bytes sent to the model, and the first token of the last call."""
        by_turn: dict[str, list[Call]] = {}
        for call in self.calls:
            if call.turn is not None and call.ended is not None:
                by_turn.setdefault(call.turn, []).append(call)
        return {turn: _row(calls) for turn, calls in by_turn.items()}


def _row(calls: list[Call]) -> dict[str, Any]:
    spans = [(call.started, call.ended or call.started) for call in calls]
    return {
        "calls": len(calls),
        "in_sequence": _longest_chain(spans),
        "busy_seconds": round(_covered(spans), 6),
        "prompt_bytes": sum(call.body_bytes for call in calls),
        "first_token": max(calls, key=lambda call: call.started).first_token,
    }


def _longest_chain(spans: Iterable[tuple[float, float]]) -> int:
    length, last = 0, float("-inf")
    for start, end in sorted(spans, key=lambda span: span[1]):
        if start >= last:
            length, last = length + 1, end
    return length


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    total, last = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, last))
        last = max(last, end)
    return total
