"""Command line: how many analytics events a running server takes in, one at a time or in arrays."""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

ADDRESSES = 250


@dataclass
class Tally:
    """What one connection has seen."""

    statuses: Counter[int] = field(default_factory=Counter)
    milliseconds: list[float] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """Send for a while and report as JSON; 1 when anything but 201 was answered, 2 without a server."""
    options = _options(arguments)
    try:
        _send(argparse.Namespace(**{**vars(options), "seconds": 0.5}), 0, Tally())
    except OSError as fault:
        print(f"events.py: {options.url}: {fault}", file=sys.stderr)
        return 2
    tallies = [Tally() for _ in range(options.connections)]
    threads = [threading.Thread(target=_send, args=[options, number, tally]) for number, tally in enumerate(tallies)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report = _report(tallies, options.size, time.monotonic() - started)
    print(json.dumps(report))
    return 0 if set(report["statuses"]) == {201} else 1


def _send(options: argparse.Namespace, number: int, tally: Tally) -> None:
    """Requests one after another on one connection. Each is from another address, as the platform's clients are: a
    single one would meet its limit of 100 requests a second."""
    host = urlsplit(options.url).netloc
    connection, end, sent = http.client.HTTPConnection(host, timeout=60), time.monotonic() + options.seconds, 0
    while time.monotonic() < end:
        body = json.dumps(_body(options.business_id, options.size))
        address = f"10.{number}.0.{sent % ADDRESSES}"
        begin = time.monotonic()
        connection.request(
            "POST", "/api/v1/events", body, {"Content-Type": "application/json", "X-Forwarded-For": address}
        )
        answer = connection.getresponse()
        answer.read()
        tally.milliseconds.append((time.monotonic() - begin) * 1000)
        tally.statuses[answer.status] += 1
        sent += 1
    connection.close()


def _body(business_id: str, size: int) -> Any:
    at = datetime.now(UTC).isoformat()
    events = [
        {
            "event_id": str(uuid.uuid4()),
            "business_id": business_id,
            "event_type": "page_view",
            "event_timestamp": at,
            "user_id": str(uuid.uuid4()),
            "event_data": {"page": "/books/42", "position": position},
        }
        for position in range(size)
    ]
    return events if size > 1 else events[0]


def _report(tallies: Sequence[Tally], size: int, seconds: float) -> dict[str, Any]:
    statuses = sum((tally.statuses for tally in tallies), Counter[int]())
    times = sorted(each for tally in tallies for each in tally.milliseconds)
    cuts = statistics.quantiles(times, n=100) if len(times) > 1 else times * 99
    return {
        "requests_per_second": round(len(times) / seconds, 1),
        "events_per_second": round(statuses[201] * size / seconds, 1),
        "statuses": dict(statuses),
        "milliseconds": {name: round(cuts[place - 1], 1) for name, place in (("p50", 50), ("p95", 95), ("p99", 99))},
    }


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="The server must name 127.0.0.1 in TRUSTED_PROXIES, to see many addresses."
    )
    parser.add_argument("--url", required=True, help="base URL of a running app")
    parser.add_argument("--business-id", required=True, help="whose events they are")
    parser.add_argument("--size", type=int, default=1, help="events in a request, up to 500")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
