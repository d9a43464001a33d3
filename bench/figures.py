"""The ten figures that ICMP must reach, each checked by its number.

    python -m bench.figures --figure 5 [--figure 6 …] [--quick] [--rounds 3]

Prints PASS, FAIL or SKIP with value and target; 0 when nothing fails, 1 otherwise, 2 when it could not be measured.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from bench import ground, growth, importer, measures, own_app, report
from bench.measures import LOADS, Results
from bench.systems import ICMP
from db import embedded

FAULTS = (
    own_app.AppDidNotStart,
    importer.ApiRefused,
    ground.LoadFailed,
    embedded.EmbeddedServerFailed,
    subprocess.CalledProcessError,
    OSError,
)


@dataclass(frozen=True)
class Condition:
    """A measure's median, or its ratio to another system's, within a limit."""

    measure: str
    at_most: float | None = None
    at_least: float | None = None
    of: str | None = None

    @property
    def systems(self) -> set[str]:
        """Who must be measured for it."""
        return {ICMP, self.of or ICMP}

    def judged(self, results: Results) -> str:
        """One line that begins with PASS, FAIL or SKIP."""
        name = f"{(self.of and f'of {self.of}: ') or ''}{report.MEASURES[self.measure].title}"
        value, base = report.median(results, self.measure), 1.0
        if self.of is not None:
            base = report.median(results, self.measure, self.of) or 0.0
        if value is None or not base:
            return f"SKIP {name}: {self.of or ICMP} was not measured"
        found = value / base
        is_good = (self.at_most is None or found <= self.at_most) and (self.at_least is None or found >= self.at_least)
        target = f"at most {self.at_most:g}" if self.at_most is not None else f"at least {self.at_least:g}"
        return f"{'PASS' if is_good else 'FAIL'} {name} {found:,.2f} ({target})"


FIGURES: dict[int, tuple[str, tuple[Condition, ...]]] = {
    1: ("two model calls in sequence", (Condition("latency_real", at_most=1420),)),
    2: (
        "little beside the model's own time",
        (Condition("overhead_alone", at_most=12), Condition("overhead_alone", at_most=0.45, of="seed")),
    ),
    3: (
        "little CPU",
        (
            Condition("app_cpu", at_most=8),
            Condition("app_cpu", at_most=0.45, of="seed"),
            Condition("postgres_cpu", at_most=4),
        ),
    ),
    4: (
        "many turns",
        (Condition("turns_crowd", at_least=2.5, of="seed"), Condition("turns_crowd", at_least=5, of="langgraph")),
    ),
    5: (
        "200 clients at once",
        (
            Condition("turns_real", at_least=100),
            Condition("errors_real", at_most=0),
            Condition("connections", at_most=40),
            Condition("held", at_most=0),
        ),
    ),
    6: (
        "500 turns in flight",
        (
            Condition("overhead_flight", at_most=40),
            Condition("overhead_flight_p99", at_most=400),
            Condition("errors_flight", at_most=0),
        ),
    ),
    7: ("little memory", (Condition("resident", at_most=200),)),
    8: ("tokens as they come", (Condition("first_token", at_most=15), Condition("errors_streams", at_most=0))),
}
# Figures that need more than customers who play: each yields lines as a condition does.
FURTHER = {9: ("no slower when it has grown", growth.figure_9), 10: ("events", growth.figure_10)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and judge the chosen figures, all by default."""
    parser = argparse.ArgumentParser(prog="figures", description=__doc__)
    known = sorted({*FIGURES, *FURTHER})
    parser.add_argument("--figure", type=int, action="append", choices=known, help="default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one short round")
    options = parser.parse_args(arguments)
    chosen = options.figure or known
    failed = False
    try:
        results = _measured([number for number in chosen if number in FIGURES], options.rounds, options.quick)
        for line in chain(lines(results, chosen), further_lines(chosen, options.quick)):
            print(line, flush=True)
            failed |= " FAIL " in line
    except FAULTS as fault:
        print(f"figures: {fault}", file=sys.stderr)
        return 2
    return int(failed)


def lines(results: Results, numbers: Iterable[int]) -> Iterator[str]:
    """The verdicts on the figures that playing customers show."""
    for number in numbers:
        title, conditions = FIGURES.get(number, ("", ()))
        yield from (f"figure {number}, {title}: {condition.judged(results)}" for condition in conditions)


def further_lines(numbers: Iterable[int], is_quick: bool) -> Iterator[str]:
    """The verdicts on the others; they are measured here."""
    for number in numbers:
        if number in FURTHER:
            title, judge = FURTHER[number]
            yield from (f"figure {number}, {title}: {line}" for line in judge(is_quick))


def _measured(numbers: Sequence[int], rounds: int, is_quick: bool) -> Results:
    conditions = [condition for number in numbers for condition in FIGURES[number][1]]
    if not conditions:
        return {}
    loads = {report.MEASURES[condition.measure].load for condition in conditions}
    wanted = {name: each for name, each in LOADS.items() if name in loads}
    names = sorted({name for condition in conditions for name in condition.systems})
    if is_quick:
        wanted, rounds = measures.shortened(wanted), 1
    with measures.started(names, measures.tell) as field:
        return measures.measured(field, wanted, rounds, measures.tell)


if __name__ == "__main__":
    sys.exit(main())
