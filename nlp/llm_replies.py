"""Reading what a model server sends: a usable reply, or the reason why there is none."""

from __future__ import annotations

import datetime
import email.utils
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import openai

from nlp.errors import ModelUnavailable

RETRYABLE = frozenset({"timeout", "connection", "rate_limited", "server_error", "bad_response"})
_LONE_SURROGATES = re.compile("[\ud800-\udfff]")
_REFUSALS = ("unsupported_parameter", "unsupported_value")


class BadReply(Exception):
    """The server's reply cannot be used; the text is the reason in one word."""


def parsed(content: bytes) -> dict[str, Any]:
    """The fields of an answer from the body of a reply; raises BadReply."""
    try:
        body = json.loads(content)
        choice = body["choices"][0]
        message, usage = choice["message"], body.get("usage") or {}
        return {
            "text": _text(message.get("content")),
            "refusal": _text(message.get("refusal")),
            "finish_reason": _text(choice.get("finish_reason")),
            "model": _text(body.get("model")) or "",
            "prompt_tokens": _count(usage.get("prompt_tokens")),
            "completion_tokens": _count(usage.get("completion_tokens")),
        }
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise BadReply("bad_response") from error


def unavailable(error: Exception, attempts: int) -> ModelUnavailable:
    """What a failed try means, without any of the texts that came with it."""
    if isinstance(error, BadReply):
        reason = str(error)
    elif isinstance(error, openai.APITimeoutError):
        reason = "timeout"
    elif isinstance(error, openai.APIStatusError):
        reason = _reason_of_status(error)
    else:
        reason = "connection"
    retry_after_s = _retry_after(error) if isinstance(error, openai.APIStatusError) else None
    return ModelUnavailable(reason, timed_out=reason == "timeout", retry_after_s=retry_after_s, attempts=attempts)


def refused_parameter(error: openai.BadRequestError, sent: Sequence[str]) -> str | None:
    """Which of the settings sent the server does not take; None when it complains about something else."""
    if error.param in sent:
        return error.param
    if error.param is not None and error.code not in _REFUSALS:
        return None
    # max_tokens is told by name together with what to send instead: the name that comes first is the one refused.
    named = [(match.start(), name) for name in sent if (match := re.search(rf"\b{name}\b", error.message))]
    return min(named)[1] if named else None


def _reason_of_status(error: openai.APIStatusError) -> str:
    status = error.status_code
    if status == 429:
        return "quota" if "insufficient_quota" in (error.code, error.type) else "rate_limited"
    if status in {401, 403}:
        return "unauthorized"
    return "server_error" if status >= 500 or status in {408, 409} else "rejected"


def _retry_after(error: openai.APIStatusError) -> float | None:
    headers: Mapping[str, str] = error.response.headers
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


def _text(value: Any) -> str | None:
    """A string without what UTF-8 cannot hold; raises TypeError for anything else but null."""
    if value is not None and not isinstance(value, str):
        raise TypeError
    return None if value is None else _LONE_SURROGATES.sub("\ufffd", value)


def _count(value: Any) -> int:
    return value if isinstance(value, int) and 0 <= value < 2**31 else 0
