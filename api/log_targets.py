"""What Elasticsearch and Logstash want to be sent, and what their answers mean for each line."""

from __future__ import annotations

import json
from dataclasses import dataclass

import httpx2

MAX_REST_SECONDS = 30.0
_PASSING = {408, 425, 429}  # refusals that may be over a little later


@dataclass(frozen=True)
class Target:
    """Where lines go: `format` is elasticsearch (`index` is an index or data stream there) or logstash."""

    url: str
    format: str = "elasticsearch"
    index: str = "logs-icmp-default"
    authorization: str | None = None


@dataclass(frozen=True)
class Line:
    """A line of JSON. Elasticsearch keeps one document an id, however often it is sent."""

    text: str
    line_id: str


@dataclass(frozen=True)
class Outcome:
    """What one call left: lines to send again, the number refused for good, why, and how long the server wants rest."""

    again: tuple[Line, ...] = ()
    refused: int = 0
    reason: str = ""
    rest_seconds: float = 0.0


def request(client: httpx2.Client, target: Target, lines: tuple[Line, ...], seconds: float) -> httpx2.Request:
    """The call that brings these lines, all within so many seconds."""
    headers = {} if target.authorization is None else {"Authorization": target.authorization}
    if target.format == "logstash":
        url, media_type = target.url, "application/json"
        body = f"[{','.join(line.text for line in lines)}]"
    else:
        # `create` is what a data stream takes; an id that exists already is answered 409, so a repeat adds nothing.
        url = f"{target.url.rstrip('/')}/{target.index}/_bulk?filter_path=errors,items.*.status"
        media_type = "application/x-ndjson"
        body = "".join(f'{{"create":{{"_id":"{line.line_id}"}}}}\n{line.text}\n' for line in lines)
    headers |= {"Content-Type": media_type, "Accept-Encoding": "identity"}
    timeout = httpx2.Timeout(seconds, connect=min(5.0, seconds))
    return client.build_request("POST", url, content=body.encode(), headers=headers, timeout=timeout)


def judged(target: Target, response: httpx2.Response, lines: tuple[Line, ...]) -> Outcome:
    """What a response means for each line."""
    status = response.status_code
    if status in _PASSING or status >= 500:
        return Outcome(again=lines, reason=f"status {status}", rest_seconds=_asked_rest(response))
    if not 200 <= status < 300:
        return Outcome(refused=len(lines), reason=f"status {status}")
    if target.format == "logstash":
        return Outcome()
    try:
        statuses = _item_statuses(response)
    except (ValueError, TypeError, KeyError, AttributeError):
        statuses = []
    if statuses is None:
        return Outcome()
    if len(statuses) != len(lines):
        return Outcome(again=lines, reason="an answer that is not Elasticsearch's")
    return _by_item(statuses, lines)


def _by_item(statuses: list[int], lines: tuple[Line, ...]) -> Outcome:
    again = tuple(line for line, status in zip(lines, statuses, strict=True) if status == 429 or status >= 500)
    # 409: an earlier try, whose answer was lost, had brought it already.
    refused = [status for status in statuses if 400 <= status < 500 and status not in (409, 429)]
    worst = next(iter(refused), 429)
    return Outcome(again, len(refused), f"status {worst} for a line")


def _item_statuses(response: httpx2.Response) -> list[int] | None:
    """The status of each line in order; None when all went well."""
    answer = json.loads(response.content)
    if answer["errors"] is False:
        return None
    return [int(next(iter(item.values()))["status"]) for item in answer["items"]]


def _asked_rest(response: httpx2.Response) -> float:
    asked = response.headers.get("Retry-After", "")
    return min(float(asked), MAX_REST_SECONDS) if asked.isascii() and asked.isdigit() else 0.0
