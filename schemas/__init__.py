"""What may come in and go out: one JSON Schema (2020-12) per thing, each with an example."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker, ValidationError, validators
from referencing import Registry
from referencing.jsonschema import DRAFT202012

import json_fit

FORMATS = FormatChecker(formats=Draft202012Validator.FORMAT_CHECKER.checkers.keys())
_DIRECTORY = Path(__file__).parent
_TEXT_BYTES = 16 * 1024
_UUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


@FORMATS.checks("date-time", raises=(ValueError, OverflowError))
def _is_date_time(value: object) -> bool:
    """ISO 8601 with date, time and zone, and representable as UTC: what PostgreSQL and Python both can hold."""
    if isinstance(value, str):
        moment = datetime.fromisoformat(value)
        moment.astimezone(UTC)
        return moment.tzinfo is not None and "T" in value.upper()
    return True


@FORMATS.checks("uuid")
def _is_uuid(value: object) -> bool:
    """The one form with hyphens. Python reads more than that, and PostgreSQL then refuses it."""
    return not isinstance(value, str) or _UUID.fullmatch(value) is not None


@FORMATS.checks("idn-email", raises=UnicodeError)
def _is_email(value: object) -> bool:
    return json_fit.is_email(value)


@FORMATS.checks("text-16-kib")
def _is_of_16_kib(value: object) -> bool:
    """What is measured in bytes; `maxLength` counts characters."""
    # Nobody's characters take more than four.
    return not isinstance(value, str) or len(value) <= _TEXT_BYTES // 4 or len(value.encode()) <= _TEXT_BYTES


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
def validator(name: str) -> Any:
    """The compiled schema; `$ref` names another file of this folder."""
    return BoundedValidator(document(name), registry=_registry(), format_checker=FORMATS)


@functools.cache
def quick(name: str) -> json_fit.Check:
    """Says True of what surely fits the schema of that name; of anything else only its validator knows."""
    return json_fit.compiled(document(name), _MEANING)


def _items(checker: Any, items: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    # A list that is too long is wrong already: looking at each of a million items would take minutes.
    if isinstance(value, list) and len(value) <= schema.get("maxItems", len(value)):
        yield from Draft202012Validator.VALIDATORS["items"](checker, items, value, schema)


def unique_items(_checker: Any, wanted: bool, value: Any, schema: Any) -> Iterator[ValidationError]:
    """`uniqueItems` in linear time; the library compares each item with each other."""
    if wanted and isinstance(value, list) and len(value) <= schema.get("maxItems", len(value)):
        seen = {json.dumps(item, sort_keys=True) for item in value}
        if len(seen) < len(value):
            yield ValidationError("the list has an item twice")


def _pattern(checker: Any, pattern: str, value: Any, schema: Any) -> Iterator[ValidationError]:
    yield from Draft202012Validator.VALIDATORS["pattern"](checker, _ended(pattern), value, schema)


def _ended(pattern: str) -> str:
    # To JSON Schema `$` is the end of the text; to Python it is also the place before a last line break.
    return f"{pattern[:-1]}\\Z" if pattern.endswith("$") else pattern


_KEYWORDS = {"items": _items, "uniqueItems": unique_items, "pattern": _pattern}
_MEANING = json_fit.Meaning(
    FORMATS,
    pattern=lambda pattern: re.compile(_ended(pattern)),
    document=lambda file: document(file.removesuffix(".json")),
)
BoundedValidator: Any = validators.extend(Draft202012Validator, _KEYWORDS)  # type: ignore[no-untyped-call]


@functools.cache
def _registry() -> Registry[Any]:
    # A "$schema" inside would have the library's own validator follow references, without the keywords of ours.
    return Registry().with_resources((f"{name}.json", DRAFT202012.create_resource(document(name))) for name in names())
