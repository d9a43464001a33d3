"""The reference of errors, docs/errors.md: made from the one table, so that it cannot say anything else."""

from __future__ import annotations

from api import examples
from api.errors import RETRY_AFTER

_OPENING = """# Errors

Every error has one shape, whatever went wrong and wherever:

```json
{"error_code": "…", "message": "…", "details": "…", "remediation": "…", "request_id": "…"}
```

`error_code` is for programs, `message` for people; `details` names the field and what was found there; `remediation`
says what to do instead. The `message` of a field in a wrong form names it: `Invalid event_timestamp format`.
`request_id` is also in the header `X-Request-ID` and in the log: name it when
you ask for help.
"""
_WHAT_TO_DO = """
## What a client should do

| status | do |
|---|---|
| 400, 404, 405, 413, 415, 422 | Do not repeat: the same request gets the same answer. Correct it. |
| 401 | Do not repeat. Log in again, or use a live key; many of these from one address are an alarm. |
| 403 | Do not repeat. The key is right, and does not allow this. |
| 409 | Read `error_code`: what is in progress or busy may be asked again after a second, a conflict must be solved. |
| 429 | Wait for the seconds in `Retry-After`. |
| 500 | Repeat once, with the same `Idempotency-Key` unless the row says else; tell the platform the `request_id`. |
| 503, 504 | Wait for the seconds in `Retry-After` and repeat, with the same `Idempotency-Key`. |

In a stream an `error` event comes after the headers: its `remediation` names the seconds, for 409 it is one. A request
whose `Idempotency-Key` is still at work waits ten seconds for the answer before it gets `TURN_IN_PROGRESS`.

A request that got no answer at all (a cut connection) is repeated like a 503. `POST /api/v1/messages` may be repeated
safely with its `Idempotency-Key` only.
"""
_HEAD = "\n## All of them\n\n| status | `error_code` | message | what to do |\n|---|---|---|---|\n"


def text() -> str:
    """The page, Markdown."""
    rows = {(row.status, row.error_code, row.message, row.remediation): None for row in examples.rows_of_errors()}
    lines = [f"| {status} | `{code}` | {message} | {remedy}{_wait(status)} |" for status, code, message, remedy in rows]
    return _OPENING + _WHAT_TO_DO + _HEAD + "\n".join(lines) + "\n"


def _wait(status: int) -> str:
    return " (`Retry-After`)" if status in RETRY_AFTER else ""
