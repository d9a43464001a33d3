"""Reading what a model server sends: a usable reply, or the reason why there is none."""

from __future__ import annotations

import datetime
import email.utils
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from nlp.breaker import Health

RETRYABLE = frozenset({"timeout", "connection", "rate_limited", "server_error", "bad_response"})
_LONE_SURROGATES = re.compile("[\ud800-\udfff]")
# More than any context holds: the sum of all of a turn's calls still fits where it is kept.
_MAX_TOKENS = 10_000_000
_UNSUPPORTED = re.compile(r"(?i)unsupported|not support|unrecogni[sz]ed|unknown|unexpected|not permitted")
_REFUSALS = ("unsupported_parameter", "unsupported_value")


class BadReply(Exception):
    """The server's reply cannot be used; the text is the reason in one word."""


def parsed(content: bytes) -> dict[str, Any]:
    """The fields of an answer from the body of a reply; raises BadReply."""
    try:
        body = json.loads(content)
        choice = body["choices"][0]
        message = choice["message"]
        return {
            "text": as_text(message.get("content")),
            "refusal": as_text(message.get("refusal")),
            "finish_reason": as_text(choice.get("finish_reason")),
            "model": model_name(body.get("model")),
            **tokens(body.get("usage") or {}),
        }
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise BadReply("bad_response") from error


def tokens(usage: Mapping[str, Any]) -> dict[str, int]:
    """The tokens that a server counted; 0 where it tells nothing that could be meant."""
    return {name: _count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens")}


def refused_parameter(param: str | None, code: str | None, message: str, sent: Sequence[str]) -> str | None:
    """Which of the settings sent a 400 says is not taken; None when it complains about something else."""
    if code and code not in _REFUSALS and not _UNSUPPORTED.search(message):
        return None  # the tenant's own mistake, such as a number that is too large
    if param is not None:
        name = param.partition(".")[0]
        return name if name in sent else None
    # max_tokens is told by name together with what to send instead: the name that comes first is the one refused.
    named = [(match.start(), name) for name in sent if (match := re.search(rf"\b{name}\b", message))]
    return min(named)[1] if named else None


def reason_of_status(status: int, *codes: str | None) -> str:
    """What an error's status and codes mean, in one word of ModelUnavailable's."""
    if status == 429:
        return "quota" if "insufficient_quota" in codes else "rate_limited"
    if status in {401, 403}:
        return "unauthorized"
    return "server_error" if status >= 500 or status in {408, 409} else "rejected"


def health(reason: str) -> Health:
    """What a failed call says about the server, whoever asked."""
    if reason in RETRYABLE:
        return "ill"
    return "unknown" if reason == "too_large" else "alive"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that a server asks to wait; None when it does not."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) / unit
        except (KeyError, ValueError):
            continue
        return max(0.0, seconds) if math.isfinite(seconds) else None
    try:
        at = email.utils.parsedate_to_datetime(headers["retry-after"])
        return max(0.0, (at - datetime.datetime.now(datetime.UTC)).total_seconds())
    except (KeyError, ValueError, TypeError):
        return None


def as_text(value: Any) -> str | None:
    """A string without what UTF-8 cannot hold; raises TypeError for anything else but null."""
    if value is not None and not isinstance(value, str):
        raise TypeError
    return None if value is None else _LONE_SURROGATES.sub("\ufffd", value)


def model_name(value: Any) -> str:
    """The name by which a server calls its model, without what PostgreSQL cannot hold; raises TypeError."""
    return (as_text(value) or "").replace("\0", "")


def _count(value: Any) -> int:
    return value if isinstance(value, int) and 0 <= value <= _MAX_TOKENS else 0
