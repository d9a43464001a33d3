"""States that thinking can end in; each text is safe to show and holds no secrets and no customer's words."""

from __future__ import annotations

from typing import Any


class ModelUnavailable(Exception):
    """The model cannot be used at the moment.

    `reason` is one word of: timeout, connection, rate_limited, server_error, bad_response, too_large, quota,
    unauthorized, rejected, empty_answer, abandoned, breaker_open. `retry_after_s` is what the server asked for, if it
    did; with breaker_open when it may be asked again."""

    def __init__(
        self, reason: str, *, timed_out: bool = False, retry_after_s: float | None = None, attempts: int = 1
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.timed_out = timed_out
        self.retry_after_s = retry_after_s
        self.attempts = attempts


class ModelAnswerInvalid(Exception):
    """The model's answer cannot be used; the text is the fault, told to the model when it is asked again. `misfit` is
    its value when it is JSON, but not as the schema wants it."""

    def __init__(self, fault: str, misfit: Any = None) -> None:
        super().__init__(fault)
        self.misfit = misfit


class BadSchema(Exception):
    """The stage's output_schema cannot be used; the text names the place and what to do."""


class BadTemplate(Exception):
    """The template or a context field cannot be used; the text names the place and what to do."""


class BadLookUp(Exception):
    """The stage's data_retrieval cannot be used; the text names the place and what to do."""


class LookUpFailed(Exception):
    """Nothing could be looked up; a stage's reply has to do without.

    `reason` is one word of: blocked, busy, timeout, unreachable, redirect, bad_status, too_large, not_json,
    missing_value. `status` is what an HTTP server answered, where that is the reason."""

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
