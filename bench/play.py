"""Command line: load a dialogue file's services through the public API and play its dialogues."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# `python bench/play.py` puts bench/ on the path, not the folder that holds it.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import importer, look_ups, oracle, own_app, players, rows, scores

MISMATCHES_SHOWN = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Play what the command line asks for; 0 all well, 1 mismatches or failed turns, 2 could not play."""
    options = _options(arguments)
    try:
        services = _chosen(importer.read(options.file), options.service)
        with _player(options) as player:
            kinds = look_ups.KINDS if options.mode == "retrieval" else (look_ups.NONE,)
            rounds = [player.play(service, kind) for kind in kinds for service in services]
    except (importer.BadFile, importer.ApiRefused, own_app.AppDidNotStart, OSError) as fault:
        print(f"play.py: {fault}", file=sys.stderr)
        return 2
    if options.mode == "plain":
        return _report_quality([one for each in rounds for one in each.played], options.json)
    return _report_truth(rounds, options.json)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, required=True, help="the dialogue file (JSON)")
    parser.add_argument("--mode", choices=("oracle", "retrieval", "plain"), required=True)
    parser.add_argument("--url", help="base URL of a running app")
    parser.add_argument("--app-command", help='start the app with this command instead, e.g. "make run"')
    parser.add_argument("--start-seconds", type=float, default=300, help="how long the app may take to start")
    parser.add_argument("--master-key", default=os.environ.get("ICMP_API_KEY"), help="default: ICMP_API_KEY")
    parser.add_argument("--oracle-port", type=int, default=0, help="default: any free port")
    parser.add_argument("--rows-port", type=int, default=0, help="of the server for look-ups; default: any free port")
    parser.add_argument("--service", help="play this service only")
    parser.add_argument("--messages-per-minute", type=int, default=6000, help="limit set for each business")
    parser.add_argument("--json", type=Path, help="write the report to this file")
    options = parser.parse_args(arguments)
    if bool(options.url) == bool(options.app_command):
        parser.error("name either --url or --app-command")
    if options.url and not options.master_key:
        parser.error("--url needs --master-key")
    if options.url and options.mode != "plain" and not options.oracle_port:
        parser.error("--url with an oracle needs --oracle-port, since the app must know it beforehand")
    if options.url and options.mode == "retrieval" and not options.rows_port:
        parser.error("--url in retrieval mode needs --rows-port, since the app must know it beforehand")
    return options


def _chosen(services: list[importer.Service], name: str | None) -> list[importer.Service]:
    chosen = [service for service in services if name in (None, service.service)]
    if not chosen:
        raise importer.BadFile(f"the file has no service {name!r}")
    return chosen


@contextlib.contextmanager
def _player(options: argparse.Namespace) -> Iterator[players.Player]:
    """The player with the servers and the app that it needs."""
    with contextlib.ExitStack() as stack:
        truth = stack.enter_context(oracle.Oracle(options.oracle_port)) if options.mode != "plain" else None
        server = stack.enter_context(rows.RowsServer(options.rows_port)) if options.mode == "retrieval" else None
        wanted = {"OPENAI_BASE_URL": truth.url, "OPENAI_API_KEY": "any"} if truth else {}
        wanted |= {"API_CALL_ALLOWED_HOSTS": server.host} if server else {}
        url, master_key = options.url, options.master_key or secrets.token_urlsafe(32)
        if options.app_command:
            app = own_app.running(options.app_command, options.start_seconds, wanted | {"ICMP_API_KEY": master_key})
            url = stack.enter_context(app)
        elif wanted:
            print("The app must run with", *(f"{name}={value}" for name, value in wanted.items()))
        yield players.Player(url, master_key, options.messages_per_minute, truth, server)


def _report_truth(rounds: Sequence[look_ups.Round], path: Path | None) -> int:
    report = scores.oracle_report([one for each in rounds for one in each.played])
    looked_up = look_ups.report([each for each in rounds if each.kind != look_ups.NONE])
    mismatches = report["mismatches"] + looked_up["mismatches"]
    _write({**report, **looked_up, "mismatches": mismatches}, path)
    print(json.dumps({**report, "mismatches": len(mismatches)}, indent=2))
    if looked_up["look_ups"]:
        print(look_ups.table(looked_up["look_ups"]))
    for line in mismatches[:MISMATCHES_SHOWN]:
        print(line)
    if len(mismatches) > MISMATCHES_SHOWN:
        print(f"… and {len(mismatches) - MISMATCHES_SHOWN} more")
    return 1 if mismatches else 0


def _report_quality(played: Sequence[scores.PlayedTurn], path: Path | None) -> int:
    report = scores.quality_report(played)
    _write(report, path)
    overall = report["overall"]
    print(f"model: {', '.join(report['models']) or 'none answered'}")
    print(scores.quality_table(report))
    print(f"5xx: {overall['answers_5xx']}, other than 200: {overall['answers_other_than_200']}")
    return 1 if overall["answers_5xx"] or overall["answers_other_than_200"] else 0


def _write(report: dict[str, Any], path: Path | None) -> None:
    if path is not None:
        path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
