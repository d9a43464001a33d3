"""Draws what bench.plots has measured; run by the Python of the tools' environment, which has matplotlib."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot

NAMES = {"icmp": "ICMP", "seed": "first program", "langgraph": "LangGraph + Flask"}
COLOURS = {"icmp": "#0b6e4f", "seed": "#b85c00", "langgraph": "#5b4b8a"}


def main(source: str, folder: str) -> int:
    """Two PNG files from one JSON file."""
    measured = json.loads(Path(source).read_text(encoding="utf-8"))
    pyplot.rcParams.update({"figure.dpi": 120, "font.size": 9, "axes.grid": True, "grid.alpha": 0.3})
    _latency(measured["clients"], Path(folder) / "latency-by-clients.png")
    _cost(measured["sizes"], Path(folder) / "cost-by-database-size.png")
    return 0


def _latency(by_system: dict[str, list[dict[str, Any]]], target: Path) -> None:
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6))
    for name, points in by_system.items():
        clients = [point["clients"] for point in points]
        style = {"color": COLOURS.get(name), "marker": "o", "markersize": 3}
        left.plot(clients, [point["p50"] / 1000 for point in points], label=NAMES.get(name, name), **style)
        left.plot(clients, [point["p95"] / 1000 for point in points], linestyle=":", **style)
        right.plot(clients, [point["turns_per_second"] for point in points], **style)
        for point in points:
            if point["errors"]:
                where = (point["clients"], point["turns_per_second"])
                right.annotate(f"{point['errors']} errors", where, fontsize=7, color=COLOURS.get(name))
    left.set(xlabel="clients at once", ylabel="seconds a turn: p50, p95 dotted", ylim=(0, None))
    right.set(xlabel="clients at once", ylabel="turns a second", ylim=(0, None))
    left.legend(frameon=False)
    _save(figure, target)


def _cost(points: list[dict[str, Any]], target: Path) -> None:
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6))
    names = [f"{point['messages']:,}" for point in points]
    left.plot(names, [point["overhead_ms"] for point in points], color=COLOURS["icmp"], marker="o")
    left.set(xlabel="messages in the database", ylabel="overhead p50 of a turn, ms", ylim=(0, None))
    for key, label, colour in (("app_cpu", "app", "#0b6e4f"), ("postgres_cpu", "PostgreSQL", "#b85c00")):
        right.plot(names, [point[key] for point in points], label=label, color=colour, marker="o")
    right.set(xlabel="messages in the database", ylabel="CPU ms a turn", ylim=(0, None))
    right.legend(frameon=False)
    _save(figure, target)


def _save(figure: Any, target: Path) -> None:
    figure.tight_layout()
    # Without the date and the version of who drew it: the same numbers give the same file.
    figure.savefig(target, metadata={"Software": None})
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
