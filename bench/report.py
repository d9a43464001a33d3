"""Medians of the rounds as one table, with their spread and the ratios to the other systems."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.measures import LOADS, Results
from bench.systems import ICMP

Take = Callable[[dict[str, Any]], float | None]


@dataclass(frozen=True)
class Measure:
    """One number of one load; `better` says which way is good: less or more, or same for neither."""

    title: str
    load: str
    take: Take
    better: str = "less"


def _nested(*path: str) -> Take:
    def take(result: dict[str, Any]) -> Any:
        found: Any = result
        for name in path:
            found = found[name]
        return found

    return take


MEASURES = {
    "overhead_alone": Measure("overhead p50, ms", "alone_at_once", _nested("overhead_ms", "p50")),
    "turns_crowd": Measure("turns/s", "crowd_at_once", _nested("turns_per_second"), "more"),
    "app_cpu": Measure("app CPU s per 1,000 turns", "crowd_at_once", _nested("cpu_seconds_per_1000", "app")),
    "postgres_cpu": Measure(
        "PostgreSQL CPU s per 1,000 turns", "crowd_at_once", _nested("cpu_seconds_per_1000", "postgres")
    ),
    "load_cpu": Measure(
        "customers' own CPU s per 1,000 turns", "crowd_at_once", _nested("cpu_seconds_per_1000", "load")
    ),
    "resident": Measure("resident memory, MiB", "crowd_at_once", _nested("peaks", "resident_mib")),
    "proportional": Measure("memory, shared pages once, MiB", "crowd_at_once", _nested("peaks", "proportional_mib")),
    "latency_real": Measure("latency p50, ms", "alone_real", _nested("latency_ms", "p50")),
    "calls": Measure("model calls a turn", "alone_real", _nested("calls_per_turn"), "same"),
    "sequence": Measure("model calls in sequence", "alone_real", _nested("calls_in_sequence")),
    "turns_real": Measure("turns/s", "crowd_real", _nested("turns_per_second"), "more"),
    "errors_real": Measure("errors", "crowd_real", _nested("errors")),
    "connections": Measure("connections at peak", "crowd_real", _nested("peaks", "connections")),
    "held": Measure("transactions idle over 700 ms", "crowd_real", _nested("peaks", "held_in_transaction")),
    "resident_real": Measure("resident memory, MiB", "crowd_real", _nested("peaks", "resident_mib")),
    "overhead_flight": Measure("overhead p50, ms", "in_flight", _nested("overhead_ms", "p50")),
    "overhead_flight_p99": Measure("overhead p99, ms", "in_flight", _nested("overhead_ms", "p99")),
    "errors_flight": Measure("errors", "in_flight", _nested("errors")),
    "in_flight": Measure("model calls at once", "in_flight", _nested("stub", "most_running"), "same"),
    "first_token": Measure("first token late by p50, ms", "streams", _nested("first_token_lag_ms", "p50")),
    "errors_streams": Measure("errors", "streams", _nested("errors")),
}


def values(results: Results, measure: str, system: str = ICMP) -> list[float]:
    """What the rounds gave; empty when it was not measured."""
    wanted = MEASURES[measure]
    rounds = results.get(wanted.load, {}).get(system, [])
    return [value for value in map(wanted.take, rounds) if value is not None]


def median(results: Results, measure: str, system: str = ICMP) -> float | None:
    """The middle of the rounds; None when it was not measured."""
    found = values(results, measure, system)
    return statistics.median(found) if found else None


def table(results: Results) -> str:
    """Everything measured, in Markdown: medians, lowest to highest in brackets, and how ICMP compares."""
    names = list(dict.fromkeys(name for by_system in results.values() for name in by_system))
    others = [name for name in names if name != ICMP]
    head = ["measure", *names, *(f"{ICMP} : {name}" for name in others)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    load = ""
    for key, measure in MEASURES.items():
        if not any(values(results, key, name) for name in names):
            continue
        if measure.load != load:
            load = measure.load
            lines.append(f"| **{LOADS[load].title}** |" + " |" * (len(head) - 1))
        cells = [_cell(values(results, key, name)) for name in names]
        lines.append(
            "| " + " | ".join([measure.title, *cells, *(_ratio(results, key, name) for name in others)]) + " |"
        )
    return "\n".join(lines)


def circumstances(about: dict[str, Any]) -> str:
    """Where and with what, in one paragraph."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return f"Commit {about['commit']}, {about['rounds']} round(s), {about['machine']}; {versions}."


def _cell(found: list[float]) -> str:
    if not found:
        return "–"
    spread = f" ({_figure(min(found))}–{_figure(max(found))})" if len(set(found)) > 1 else ""
    return f"{_figure(statistics.median(found))}{spread}"


def _ratio(results: Results, key: str, other: str) -> str:
    ours, theirs = median(results, key), median(results, key, other)
    if not ours or not theirs or MEASURES[key].better == "same":
        return ""
    return f"{ours / theirs:.2f}"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2f}" if value < 10 else f"{value:.1f}"
