"""What is wrong with a value, in words for the person who sent it: the place, what was found, what to send."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import islice
from typing import Any

from jsonschema.exceptions import best_match

import schemas
from api.errors import InvalidRequest

MAX_FAULTS = 50  # of which the most telling one is told
_FORMATS = {
    "date-time": ("ISO 8601", "Use 'YYYY-MM-DDTHH:MM:SSZ' format"),
    "uuid": ("a UUID", "Use the form 123e4567-e89b-42d3-a456-426614174000"),
    "uri": ("a web address", "Use the form https://host/path"),
    "text-16-kib": ("at most 16 KiB of UTF-8", "Send at most 16384 bytes"),
    "idn-email": ("an email address", "Use the form name@host"),
}


def first(validator: Any, value: Any) -> InvalidRequest | None:
    """The most telling fault of a value, None when it has none."""
    error = best_match(islice(validator.iter_errors(value), MAX_FAULTS))
    return None if error is None else _explained(error)


def parameter(name: str, schema: dict[str, Any], text: str) -> Any:
    """A query parameter's value by its schema; raises InvalidRequest."""
    value: Any = text
    if schema["type"] == "integer":
        # int() would take "1_0", " 5" and digits of other scripts.
        value = int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else text
    elif schema["type"] == "boolean":
        value = {"true": True, "false": False}.get(text, text)
    named = schemas.BoundedValidator({"properties": {name: schema}}, format_checker=schemas.FORMATS)
    fault = first(named, {name: value})
    if fault is not None:
        raise fault
    return value


def _explained(error: Any) -> InvalidRequest:
    place = error.json_path.removeprefix("$").removeprefix(".")
    explain = _EXPLAINED.get(str(error.validator))
    if explain is None:
        return InvalidRequest(f"{place or 'body'}: {error.message[:300]}", "See the schema in /docs")
    return explain(error, place)


def _format(error: Any, place: str) -> InvalidRequest:
    wanted, remediation = _FORMATS.get(str(error.validator_value), (str(error.validator_value), "See /docs"))
    where = f" in {place}" if place else ""
    field = str(error.path[-1]) if error.path else "value"
    return InvalidRequest(
        f"Expected {wanted}{where}, got {_found(error.instance)}", remediation, f"Invalid {field} format"
    )


def _required(error: Any, place: str) -> InvalidRequest:
    missing = next(name for name in error.validator_value if name not in error.instance)
    name = f"{place}.{missing}" if place else missing
    return InvalidRequest(f"{name}: missing", f"Send {missing}")


def _additional(error: Any, place: str) -> InvalidRequest:
    known = error.schema.get("properties", {})
    unknown = next(name for name in error.instance if name not in known)
    name = f"{place}.{unknown[:100]}" if place else unknown[:100]
    return InvalidRequest(f"{name}: unknown field", f"Known fields: {', '.join(sorted(known))}")


def _type(error: Any, place: str) -> InvalidRequest:
    wanted = error.validator_value
    words = " or ".join(wanted) if isinstance(wanted, list) else str(wanted)
    return InvalidRequest(f"{place or 'body'}: expected {words}, got {_found(error.instance)}", f"Send {words}")


def _enum(error: Any, place: str) -> InvalidRequest:
    words = ", ".join(str(value) for value in error.validator_value)
    return InvalidRequest(
        f"{place or 'value'}: {_found(error.instance)} is not one of {words}", f"Send one of: {words}"
    )


def _limit(words: str, unit: str = "") -> Callable[[Any, str], InvalidRequest]:
    def explain(error: Any, place: str) -> InvalidRequest:
        size = len(error.instance) if isinstance(error.instance, str | list | dict) else error.instance
        wanted = f"{words} {error.validator_value}{unit}"
        return InvalidRequest(f"{place or 'value'}: {size}{unit}, expected {wanted}", f"Send {wanted}")

    return explain


def _pattern(error: Any, place: str) -> InvalidRequest:
    if error.validator_value == "\\S":
        return InvalidRequest(f"{place or 'value'}: blank", "Send some text")
    return InvalidRequest(
        f"{place or 'value'}: {_found(error.instance)} does not match {error.validator_value}",
        f"Send text that matches {error.validator_value}",
    )


def _not(error: Any, place: str) -> InvalidRequest:
    return InvalidRequest(f"{place or 'value'}: {_found(error.instance)} is reserved", "Choose another one")


def _found(value: Any) -> str:
    """A short look at a value; long ones by their kind only."""
    if isinstance(value, str):
        return repr(value if len(value) <= 100 else value[:100] + "…")
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    return "an object" if isinstance(value, dict) else "an array"


_EXPLAINED: dict[str, Callable[[Any, str], InvalidRequest]] = {
    "format": _format,
    "required": _required,
    "additionalProperties": _additional,
    "type": _type,
    "enum": _enum,
    "pattern": _pattern,
    "not": _not,
    "minimum": _limit("at least"),
    "maximum": _limit("at most"),
    "minLength": _limit("at least", " characters"),
    "maxLength": _limit("at most", " characters"),
    "minItems": _limit("at least", " items"),
    "maxItems": _limit("at most", " items"),
    "minProperties": _limit("at least", " fields"),
    "maxProperties": _limit("at most", " fields"),
}
