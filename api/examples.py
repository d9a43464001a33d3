"""Examples of what goes in and out, for the OpenAPI document and what is made of it."""

from __future__ import annotations

import json
from typing import Any

import schemas
from api import errors
from api.errors import Row

REQUEST_ID = "3f2b8c1e5a574b579d0e6f8f2f6b1a01"


def components() -> dict[str, Any]:
    """The document's named examples: each schema's first one, alone and as a list."""
    found: dict[str, Any] = {}
    for name in schemas.names():
        value = schemas.document(name)["examples"][0]
        found |= {name: {"value": value}, f"{name}_list": {"value": [value]}}
    return found


def reference(name: str, *, many: bool = False) -> dict[str, Any]:
    """The `examples` of a body."""
    return {"example": {"$ref": f"#/components/examples/{name}{'_list' if many else ''}"}}


def events(name: str) -> str:
    """What a stream of events looks like whose last one carries this body."""
    body = schemas.document(name)["examples"][0]
    told = [
        ("stage", body["stage"]),
        ("data", {"data": body["data"], "missing_fields": body["missing_fields"]}),
        ("token", {"text": body["response"]}),
        ("done", body),
    ]
    return "".join(f"event: {kind}\ndata: {json.dumps(value, ensure_ascii=False)}\n\n" for kind, value in told)


def of_errors(status: str) -> dict[str, Any]:
    """The `examples` of an error response: every row of the table with that status; `default` is a fault."""
    rows = [row for row in rows_of_errors() if str(row.status) == status] or [errors.FAULT]
    codes = [row.error_code for row in rows]
    named = zip(
        (code if codes.count(code) == 1 else f"{code}_{n}" for n, code in enumerate(codes, 1)), rows, strict=True
    )
    return {name: {"summary": row.message, "value": _shown(row)} for name, row in named}


def rows_of_errors() -> list[Row]:
    """Every error that a caller can see, by status."""
    rows = [*errors.TABLE.values(), errors.TIMED_OUT, errors.UNREADABLE, *errors.HTTP.values(), errors.FAULT]
    return sorted(rows, key=lambda row: row.status)


def _shown(row: Row) -> dict[str, str]:
    return {
        "error_code": row.error_code,
        "message": row.message,
        "details": row.details or row.message,
        "remediation": row.remediation,
        "request_id": REQUEST_ID,
    }
