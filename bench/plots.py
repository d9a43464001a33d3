"""`make bench-plots`: latency against the number of customers, and what a turn costs against the size of the database.

    python -m bench.plots [--quick] [--only icmp --only seed …] [--json FILE] [--folder docs/plots]

Measures, keeps everything as JSON, and draws two PNG files with the matplotlib of the tools' own environment.
"""

from __future__ import annotations

import argparse
import base64
import json
import secrets
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import figures, ground, growth, measures, report, systems, tools
from bench.growth import Size

CLIENTS = (1, 8, 32, 100, 200, 400)
SIZES = (Size(10_000, 100), Size(100_000, 1_000), Size(1_000_000, 10_000))
QUICK_CLIENTS, QUICK_SIZES = (1, 32, 200), (Size(10_000, 100),)
DRAWING = Path(__file__).with_name("drawing.py")


def main(arguments: Sequence[str] | None = None) -> int:
    """0 measured and drawn; 2 could not be measured."""
    options = _options(arguments)
    try:
        measured: dict[str, Any] = {
            "about": measures.circumstances(1 if options.quick else 3),
            "clients": _by_clients(options.only or list(systems.STARTS), options.quick),
            "sizes": _by_size(options.quick),
        }
    except figures.FAULTS as fault:
        print(f"plots: {fault}", file=sys.stderr)
        return 2
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    options.folder.mkdir(parents=True, exist_ok=True)
    subprocess.run([str(tools.program("python")), str(DRAWING), str(options.json), str(options.folder)], check=True)
    print(report.circumstances(measured["about"]))
    print(f"Drawn into {options.folder}; the numbers are in {options.json}")
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="plots", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few points, one short round each")
    parser.add_argument("--only", action="append", choices=list(systems.STARTS), help="default: all")
    parser.add_argument("--json", type=Path, default=ground.DATA / "plots.json")
    parser.add_argument("--folder", type=Path, default=ground.PROJECT / "docs" / "plots")
    return parser.parse_args(arguments)


def _by_clients(names: Sequence[str], is_quick: bool) -> dict[str, list[dict[str, Any]]]:
    """By system: for each number of clients that of turns a second and latency percentiles, with a real model."""
    rounds, found = 1 if is_quick else 3, dict[str, list[dict[str, Any]]]()
    loads = {
        str(clients): replace(
            measures.LOADS["crowd_real"], title=f"{clients} clients, real model", clients=clients, warmup_seconds=6
        )
        for clients in (QUICK_CLIENTS if is_quick else CLIENTS)
    }
    if is_quick:
        loads = measures.shortened(loads)
    with measures.started(names, measures.tell) as field:
        results = measures.measured(field, loads, rounds, measures.tell)
    for clients, by_system in results.items():
        for name, played in by_system.items():
            middle = {
                share: statistics.median(each["latency_ms"][share] or 0.0 for each in played)
                for share in ("p50", "p95")
            }
            point = {
                "clients": int(clients),
                "turns_per_second": statistics.median(each["turns_per_second"] for each in played),
                "errors": sum(each["errors"] for each in played),
            }
            found.setdefault(name, []).append({**point, **middle})
    return found


def _by_size(is_quick: bool) -> list[dict[str, Any]]:
    """For each size of the database what a turn costs beside the model: overhead and CPU."""
    key = "bench:" + base64.b64encode(secrets.token_bytes(32)).decode()
    rounds, found = 1 if is_quick else 3, list[dict[str, Any]]()
    with ground.prepared() as base:
        base.configure_stub(growth.ALONE.speed)
        for size in (Size(0, 0), *(QUICK_SIZES if is_quick else SIZES)):
            url = base.database(f"of_{size.messages}")
            if size.messages:
                growth.filled(url, size, key)
            with growth.opened_shop(base, url, {"ENCRYPTION_KEY": key}) as (shop, _):
                measures.tell(f"{size.messages:,} messages")
                played = [measures.played(base, shop, growth.ALONE) for _ in range(rounds)]
            cpu = [each["cpu_seconds_per_1000"] for each in played]
            found.append(
                {
                    "messages": size.messages,
                    "overhead_ms": statistics.median(each["overhead_ms"]["p50"] for each in played),
                    "app_cpu": statistics.median(each["app"] for each in cpu),
                    "postgres_cpu": statistics.median(each["postgres"] for each in cpu),
                    "prompt_bytes": statistics.median(each["prompt_bytes_per_turn"] for each in played),
                }
            )
    return found


if __name__ == "__main__":
    sys.exit(main())
