"""What may come in and go out: one JSON Schema (2020-12) per thing, each with an example."""

from __future__ import annotations

import functools
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry, Resource

FORMATS = FormatChecker(formats=Draft202012Validator.FORMAT_CHECKER.checkers.keys())
_DIRECTORY = Path(__file__).parent


@FORMATS.checks("date-time", raises=(ValueError, OverflowError))
def _is_date_time(value: object) -> bool:
    """ISO 8601 with date, time and zone, and representable as UTC: what PostgreSQL and Python both can hold."""
    if isinstance(value, str):
        moment = datetime.fromisoformat(value)
        moment.astimezone(UTC)
        return moment.tzinfo is not None and "T" in value.upper()
    return True


@functools.cache
def document(name: str) -> dict[str, Any]:
    """The schema of that name, as written."""
    loaded: dict[str, Any] = json.loads((_DIRECTORY / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


@functools.cache
def names() -> tuple[str, ...]:
    """All schemas."""
    return tuple(sorted(path.stem for path in _DIRECTORY.glob("*.json")))


@functools.cache
def validator(name: str) -> Draft202012Validator:
    """The compiled schema; `$ref` names another file of this folder."""
    return Draft202012Validator(document(name), registry=_registry(), format_checker=FORMATS)


@functools.cache
def _registry() -> Registry[Any]:
    resources = [
        (f"{name}.json", Resource.from_contents(document(name) | {"$schema": Draft202012Validator.META_SCHEMA["$id"]}))
        for name in names()
    ]
    return Registry().with_resources(resources)
