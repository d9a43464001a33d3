"""The fields of a stage: its output_schema reduced for the model, and every value checked against the whole of it."""

from __future__ import annotations

import decimal
import functools
import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import referencing
from jsonschema import Draft202012Validator, FormatChecker, ValidationError, validators
from jsonschema.exceptions import best_match

import json_fit
from json_text import encoded
from nlp import schema_rules

# How limits that strict structured output leaves out are told in words, in this order.
_IN_WORDS = ("pattern", "format", "minimum", "maximum", "minLength", "maxLength")
_MAX_FAULT = 300
_FORMAT_CHECKER = FormatChecker(schema_rules.FORMATS)
# The library's own table mixes dialects: there a time is one of draft 3, and an email whatever has an @.
_FORMAT_CHECKER.checkers.update(
    {name: Draft202012Validator.FORMAT_CHECKER.checkers[name] for name in schema_rules.FORMATS}
)
_FORMAT_CHECKER.checkers |= dict.fromkeys(("email", "idn-email"), (json_fit.is_email, UnicodeError))
_LOCAL_TIME = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]")


@_FORMAT_CHECKER.checks("time")
def _is_time(value: object) -> bool:
    """As RFC 3339 has it, or without the zone, which customers do not tell."""
    is_local = isinstance(value, str) and _LOCAL_TIME.fullmatch(value) is not None
    return is_local or Draft202012Validator.FORMAT_CHECKER.conforms(value, "time")


def check(output_schema: Any) -> None:
    """Raises errors.BadSchema when a stage cannot be saved with this output_schema."""
    schema_rules.check(output_schema)


def reduce(output_schema: Mapping[str, Any]) -> dict[str, Any]:
    """The properties of the answer schema: for each field an object of `value` (null allowed) and `quote`."""
    reduced: dict[str, Any] = _reduced(_canonical(output_schema))
    return reduced


def descriptions(output_schema: Mapping[str, Any]) -> dict[str, str]:
    """The fields' names with their descriptions, empty where there is none."""
    definitions = output_schema.get("$defs", {})
    nodes = output_schema.get("properties", {}).items()
    return {name: str(schema_rules.resolved(node, definitions).get("description", "")) for name, node in nodes}


def fault(output_schema: Mapping[str, Any], name: str, value: Any) -> str | None:
    """What is wrong with a field's value; None when it is valid."""
    return schema_fault(_field_schema(output_schema, name), value)


def pruned(output_schema: Mapping[str, Any], name: str, value: Any) -> Any:
    """The value without the nulls that stand for optional properties of nested objects left out, and with whole numbers
    where they are wanted: 5.0 is 5."""
    return _pruned(_field_schema(output_schema, name), output_schema.get("$defs", {}), value)


def missing(
    output_schema: Mapping[str, Any], data: Mapping[str, Any], checked: Collection[str] = ()
) -> tuple[str, ...]:
    """The required fields that data lacks, or has in a form that only another stage wanted, in the schema's order;
    `checked` are known to be right."""
    return tuple(
        name
        for name in output_schema.get("required", [])
        if data.get(name) is None or (name not in checked and fault(output_schema, name, data[name]) is not None)
    )


def schema_fault(schema: Mapping[str, Any], value: Any) -> str | None:
    """What is wrong with a value by a JSON Schema 2020-12 (formats included); None when it is valid."""
    try:
        judge = _judge(_canonical(schema))
        error = None if judge.fits(value) else best_match(judge.validator.iter_errors(value))
    except Exception as problem:  # numbers beyond what arithmetic takes, text that cannot be encoded
        return f"cannot be checked: {type(problem).__name__}"
    if error is None:
        return None
    place = ".".join(map(str, error.absolute_path))
    return (f"{place}: {error.message}" if place else str(error.message))[:_MAX_FAULT]


def _canonical(schema: Mapping[str, Any]) -> str:
    return encoded(schema).decode()


def _field_schema(output_schema: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {**output_schema["properties"][name], "$defs": output_schema.get("$defs", {})}


class _Judge(NamedTuple):
    """`fits` says True of most values that fit a schema; of the others the library's validator tells what is wrong."""

    fits: json_fit.Check
    validator: Any


@functools.lru_cache(maxsize=4096)
def _judge(canonical: str) -> _Judge:
    schema = json.loads(canonical)
    meaning = json_fit.Meaning(_FORMAT_CHECKER, _compiled_pattern)
    # An empty registry: a reference to elsewhere is an error, never a download.
    validator = _Validator(schema, registry=referencing.Registry(), format_checker=_FORMAT_CHECKER)
    return _Judge(json_fit.compiled(schema, meaning), validator)


@functools.lru_cache(maxsize=4096)
def _compiled_pattern(pattern: str) -> Any:
    return schema_rules.compile_pattern(pattern)


def _pattern(validator: Any, pattern: str, value: Any, _schema: Any) -> Iterator[ValidationError]:
    if validator.is_type(value, "string") and not _compiled_pattern(pattern).search(value):
        yield ValidationError(f"{value!r} does not match the pattern {pattern!r}")


def _multiple_of(validator: Any, step: float, value: Any, _schema: Any) -> Iterator[ValidationError]:
    """By the decimals that were written: as binary fractions 19.99 is no multiple of 0.01."""
    if validator.is_type(value, "number"):
        with decimal.localcontext(decimal.Context(prec=_DIGITS)):
            if decimal.Decimal(repr(value)) % decimal.Decimal(repr(step)):
                yield ValidationError(f"{value!r} is not a multiple of {step!r}")


_DIGITS = 700  # from the smallest to the largest number that a float holds
_KEYWORDS = {"pattern": _pattern, "uniqueItems": schema_rules.unique_items, "multipleOf": _multiple_of}
_Validator: Any = validators.extend(Draft202012Validator, _KEYWORDS)  # type: ignore[no-untyped-call]


@functools.lru_cache(maxsize=1024)
def _reduced(canonical: str) -> dict[str, Any]:
    output_schema = json.loads(canonical)
    definitions = output_schema.get("$defs", {})
    return {name: _asked(node, definitions) for name, node in output_schema.get("properties", {}).items()}


def _asked(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    value = _reduced_node(node, definitions)
    description = value.pop("description", None)
    return {
        "type": "object",
        **({"description": description} if description else {}),
        "properties": {"value": _nullable(value), "quote": {"type": ["string", "null"]}},
        "required": ["value", "quote"],
        "additionalProperties": False,
    }


def _reduced_node(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    node = schema_rules.resolved(node, definitions)
    description = _described(node)
    reduced: dict[str, Any] = {"description": description} if description else {}
    if "anyOf" in node:
        return reduced | {"anyOf": [_reduced_node(branch, definitions) for branch in node["anyOf"]]}
    types = schema_rules.types_of(node)
    reduced["type"] = types[0] if len(types) == 1 else types
    if (values := schema_rules.allowed_values(node)) is not None:
        reduced["enum"] = values
    if "array" in types:
        reduced["items"] = _reduced_node(node["items"], definitions)
    if "object" in types:
        properties = node["properties"].items()
        reduced["properties"] = {name: _nullable(_reduced_node(child, definitions)) for name, child in properties}
        reduced |= {"required": list(node["properties"]), "additionalProperties": False}
    return reduced


def _described(node: Mapping[str, Any]) -> str:
    limits = "".join(f" ({name}: {node[name]})" for name in _IN_WORDS if name in node)
    return " ".join(f"{node.get('description', '')}{limits}".split("\n")).strip()


def _nullable(node: dict[str, Any]) -> dict[str, Any]:
    if "anyOf" in node:
        branches = node["anyOf"]
        null = [] if any("null" in schema_rules.types_of(branch) for branch in branches) else [{"type": "null"}]
        return node | {"anyOf": [*branches, *null]}
    types = schema_rules.types_of(node)
    nullable = node | {"type": types if "null" in types else [*types, "null"]}
    if "enum" in node:
        nullable["enum"] = node["enum"] if None in node["enum"] else [*node["enum"], None]
    return nullable


def _pruned(node: Mapping[str, Any], definitions: Mapping[str, Any], value: Any) -> Any:
    node = schema_rules.resolved(node, definitions)
    if isinstance(value, float) and value.is_integer() and "integer" in schema_rules.types_of(node):
        return int(value)
    if isinstance(value, list) and "items" in node:
        return [_pruned(node["items"], definitions, item) for item in value]
    if not isinstance(value, dict) or "properties" not in node:
        return value
    required, properties = node.get("required", []), node["properties"]
    return {
        key: _pruned(properties.get(key, {}), definitions, item)
        for key, item in value.items()
        if item is not None or key in required
    }
