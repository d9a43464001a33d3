"""Command line: load a dialogue file's services through the public API and play its dialogues."""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# `python bench/play.py` puts bench/ on the path, not the folder that holds it.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import importer, oracle, scores

MISMATCHES_SHOWN = 10
LONGEST_WAIT_SECONDS = 120
MOST_WAITS = 20
STOP_SECONDS = 60


class AppDidNotStart(Exception):
    """The app ended or stayed silent before it was ready; the text ends with its last lines."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Play what the command line asks for; 0 all well, 1 mismatches or failed turns, 2 could not play."""
    options = _options(arguments)
    try:
        services = _chosen(importer.read(options.file), options.service)
        with contextlib.ExitStack() as stack:
            truth = stack.enter_context(oracle.Oracle(options.oracle_port)) if options.mode == "oracle" else None
            url, master_key = options.url, options.master_key
            if options.app_command:
                master_key = master_key or secrets.token_urlsafe(32)
                url = stack.enter_context(_running_app(options, master_key, truth))
            elif truth is not None:
                print(f"The app must run with OPENAI_BASE_URL={truth.url} and any OPENAI_API_KEY.")
            played = _play(importer.Api(url, master_key), url, services, truth, options.messages_per_minute)
    except (importer.BadFile, importer.ApiRefused, AppDidNotStart, OSError) as fault:
        print(f"play.py: {fault}", file=sys.stderr)
        return 2
    return _report_oracle(played, options.json) if truth else _report_quality(played, options.json)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, required=True, help="the dialogue file (JSON)")
    parser.add_argument("--mode", choices=("oracle", "plain"), required=True)
    parser.add_argument("--url", help="base URL of a running app")
    parser.add_argument("--app-command", help='start the app with this command instead, e.g. "make run"')
    parser.add_argument("--start-seconds", type=float, default=300, help="how long the app may take to start")
    parser.add_argument("--master-key", default=os.environ.get("ICMP_API_KEY"), help="default: ICMP_API_KEY")
    parser.add_argument("--oracle-port", type=int, default=0, help="default: any free port")
    parser.add_argument("--service", help="play this service only")
    parser.add_argument("--messages-per-minute", type=int, default=6000, help="limit set for each business")
    parser.add_argument("--json", type=Path, help="write the report to this file")
    options = parser.parse_args(arguments)
    if bool(options.url) == bool(options.app_command):
        parser.error("name either --url or --app-command")
    if options.url and not options.master_key:
        parser.error("--url needs --master-key")
    if options.url and options.mode == "oracle" and not options.oracle_port:
        parser.error("--url in oracle mode needs --oracle-port, since the app must know it beforehand")
    return options


def _chosen(services: list[importer.Service], name: str | None) -> list[importer.Service]:
    chosen = [service for service in services if name in (None, service.service)]
    if not chosen:
        raise importer.BadFile(f"the file has no service {name!r}")
    return chosen


@contextlib.contextmanager
def _running_app(options: argparse.Namespace, master_key: str, truth: oracle.Oracle | None) -> Iterator[str]:
    """The app on a port and data of its own; yields its URL, stops it and drops the data afterwards."""
    with tempfile.TemporaryDirectory(prefix="icmp-play-", ignore_cleanup_errors=True) as folder:
        port, log = _free_port(), Path(folder) / "output.log"
        environment = os.environ | _app_environment(port, Path(folder) / "data", master_key, truth)
        # Started in the background, a script may ignore SIGINT and hand that down: the stop needs it heard.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with log.open("wb") as output:
            # A group of its own, so that the stop reaches what the command itself has started.
            process = subprocess.Popen(
                shlex.split(options.app_command),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(process, url, options.start_seconds, log)
            yield url
        finally:
            _stop(process)


def _app_environment(port: int, data_dir: Path, master_key: str, truth: oracle.Oracle | None) -> dict[str, str]:
    # Emptied, not left out: a value in the app's .env must not lead the play into a database that matters.
    elsewhere = ("DATABASE_URL", "DB_HOST", "MIGRATION_DATABASE_URL", "RATE_LIMIT_STORAGE_URI")
    encryption_key = base64.b64encode(secrets.token_bytes(32)).decode()
    model = {"OPENAI_BASE_URL": truth.url, "OPENAI_API_KEY": "any"} if truth else {}
    return {
        **dict.fromkeys(elsewhere, ""),
        "PORT": str(port),
        "DATA_DIR": str(data_dir),
        "ICMP_API_KEY": master_key,
        "ENCRYPTION_KEY": f"play:{encryption_key}",
        **model,
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, seconds: float, log: Path) -> None:
    deadline = time.monotonic() + seconds
    while importer.Api(url, "").request("GET", "/readyz").status != 200:
        if process.poll() is not None or time.monotonic() > deadline:
            fate = "is not ready in time" if process.poll() is None else f"ended with {process.returncode}"
            last_lines = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
            raise AppDidNotStart(f"the app {fate}; its last lines:\n{last_lines}")
        time.sleep(0.2)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the app's group as Ctrl-C in a terminal would; kill it when it does not end in time."""
    for signal_number in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal_number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
            return
        print(f"play.py: the app did not stop within {STOP_SECONDS} s and is killed", file=sys.stderr)


def _play(
    master: importer.Api,
    url: str,
    services: Sequence[importer.Service],
    truth: oracle.Oracle | None,
    messages_per_minute: int,
) -> list[scores.PlayedTurn]:
    played: list[scores.PlayedTurn] = []
    for service in services:
        business = importer.import_service(master, service, messages_per_minute)
        if business.note:
            print(f"{service.service}: {business.note}")
        api = importer.Api(url, business.api_key)
        for dialogue in service.dialogues:
            played += play_dialogue(api, business.business_id, service, dialogue, truth)
        print(f"{service.service}: {len(service.dialogues)} dialogues played")
    return played


def play_dialogue(
    api: importer.Api,
    business_id: str,
    service: importer.Service,
    dialogue: importer.Dialogue,
    truth: oracle.Oracle | None,
) -> Iterator[scores.PlayedTurn]:
    """Play one dialogue as a new customer; all its turns share the first reply's conversation."""
    request: dict[str, Any] = {"business_id": business_id, "user_id": str(uuid.uuid4())}
    stage_before: str | None = None
    for number, turn in enumerate(dialogue.turns, start=1):
        if truth:
            truth.begin(turn)
        answer, waits = _send(api, {**request, "message": turn.user})
        calls = truth.end() if truth else None
        one = scores.PlayedTurn(service, dialogue.dialogue_id, number, turn, answer, stage_before, waits, calls)
        if one.reply.get("conversation_id"):
            request.setdefault("conversation_id", one.reply["conversation_id"])
        stage_before = one.stage_name or stage_before
        yield one


def _send(api: importer.Api, body: dict[str, Any]) -> tuple[importer.Answer, int]:
    """The answer to one message and how often the rate limit made it wait."""
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    answer = api.request("POST", "/api/v1/messages", body, headers)
    waits = 0
    while answer.status == 429 and waits < MOST_WAITS:
        seconds = answer.headers.get("Retry-After", "")
        if not seconds.isdigit() or int(seconds) > LONGEST_WAIT_SECONDS:
            break
        waits += 1
        time.sleep(int(seconds))
        answer = api.request("POST", "/api/v1/messages", body, headers)
    return answer, waits


def _report_oracle(played: Sequence[scores.PlayedTurn], path: Path | None) -> int:
    report = scores.oracle_report(played)
    _write(report, path)
    mismatches = report["mismatches"]
    print(json.dumps({**report, "mismatches": len(mismatches)}, indent=2))
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
