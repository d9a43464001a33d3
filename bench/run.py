"""`make bench`: ICMP and its peers under the same customers, one table, the figures, and everything as JSON.

python -m bench.run [--quick] [--rounds 3] [--only icmp --only seed …] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import figures, ground, measures, report, systems


def main(arguments: Sequence[str] | None = None) -> int:
    """0 measured, whatever the figures say; 2 could not be measured."""
    options = _options(arguments)
    loads, rounds = measures.LOADS, options.rounds
    if options.quick:
        loads, rounds = measures.shortened(loads), 1
    started = time.monotonic()
    about = measures.circumstances(rounds)
    try:
        with measures.started(options.only or list(systems.STARTS), measures.tell) as field:
            results = measures.measured(field, loads, rounds, measures.tell)
        written = {"about": about, "is_quick": options.quick, "results": results}
        _write(options.json, written)
        print(report.circumstances(about), report.table(results), sep="\n\n")
        print(f"\nMeasured in {(time.monotonic() - started) / 60:.1f} minutes; all of it in {options.json}\n")
        print(*figures.lines(results, figures.FIGURES), sep="\n")
    except figures.FAULTS as fault:
        print(f"bench: {fault}", file=sys.stderr)
        return 2
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of short plays, under three minutes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", choices=list(systems.STARTS), help="default: all")
    parser.add_argument("--json", type=Path, default=ground.DATA / "results.json")
    return parser.parse_args(arguments)


def _write(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
