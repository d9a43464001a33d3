"""What an output_schema may be, what the model gets of it, and what its values are checked against."""

from __future__ import annotations

import time
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from nlp import fields, schema_rules
from nlp.errors import BadSchema

ADDRESS = {
    "type": "object",
    "description": "Where to\nsend it",
    "properties": {"city": {"type": "string"}, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}},
    "required": ["city"],
}
SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Everything",
    "type": "object",
    "properties": {
        "number": {"type": "string", "pattern": "^[0-9]{4,}$", "maxLength": 9, "minLength": 4, "description": "No."},
        "count": {"type": "integer", "minimum": 1, "maximum": 5},
        "colour": {"enum": ["red", "green"]},
        "kind": {"const": "lamp"},
        "when": {"type": "string", "format": "date"},
        "maybe": {"type": ["string", "null"]},
        "ship_to": {"$ref": "#/$defs/address"},
        "bill_to": {"$ref": "#/$defs/address", "description": "Who pays"},
        "days": {"type": "array", "items": {"type": "string", "format": "date"}, "uniqueItems": True},
        "contact": {"anyOf": [{"type": "string", "format": "email"}, {"type": "integer"}]},
    },
    "required": ["number", "count"],
    "$defs": {"address": ADDRESS},
}
REDUCED_ADDRESS = {
    "type": ["object", "null"],
    "properties": {
        "city": {"type": ["string", "null"]},
        "zip": {"description": "(pattern: ^[0-9]{5}$)", "type": ["string", "null"]},
    },
    "required": ["city", "zip"],
    "additionalProperties": False,
}


def one(node: Any, **root: Any) -> dict[str, Any]:
    """An output_schema with a single field."""
    return {"type": "object", "properties": {"field": node}} | root


def test_schema_that_uses_everything_allowed_passes() -> None:
    fields.check(SCHEMA)
    fields.check({"type": "object", "properties": {}})
    fields.check({"type": "object"})


@pytest.mark.parametrize(
    ("field", "description", "value"),
    [
        ("number", "No. (pattern: ^[0-9]{4,}$) (minLength: 4) (maxLength: 9)", {"type": ["string", "null"]}),
        ("count", "(minimum: 1) (maximum: 5)", {"type": ["integer", "null"]}),
        ("colour", None, {"type": ["string", "null"], "enum": ["red", "green", None]}),
        ("kind", None, {"type": ["string", "null"], "enum": ["lamp", None]}),
        ("when", "(format: date)", {"type": ["string", "null"]}),
        ("maybe", None, {"type": ["string", "null"]}),
        ("ship_to", "Where to send it", REDUCED_ADDRESS),
        ("bill_to", "Who pays", REDUCED_ADDRESS),
        ("days", None, {"type": ["array", "null"], "items": {"description": "(format: date)", "type": "string"}}),
        (
            "contact",
            None,
            {"anyOf": [{"description": "(format: email)", "type": "string"}, {"type": "integer"}, {"type": "null"}]},
        ),
    ],
)
def test_field_is_reduced_to_what_strict_mode_takes(field: str, description: str | None, value: dict[str, Any]) -> None:
    asked = fields.reduce(SCHEMA)[field]
    assert asked.get("description") == description
    assert asked["properties"] == {"value": value, "quote": {"type": ["string", "null"]}}


def test_descriptions_follow_references() -> None:
    told = fields.descriptions(SCHEMA)
    assert (told["number"], told["ship_to"], told["bill_to"], told["when"]) == (
        "No.",
        "Where to\nsend it",
        "Who pays",
        "",
    )


@pytest.mark.parametrize(
    ("field", "value", "is_valid"),
    [
        ("number", "4411", True),
        ("number", "4411\n", False),
        ("number", 4411, False),
        ("number", "\ud800", False),
        ("count", 5, True),
        ("count", 5.0, True),
        ("count", True, False),
        ("count", 6, False),
        ("count", float("inf"), False),
        ("count", 10**400, False),
        ("colour", "blue", False),
        ("when", "2026-02-29", False),
        ("when", "2028-02-29", True),
        ("ship_to", {"city": "Ulm", "zip": "89073"}, True),
        ("ship_to", {"zip": "89073"}, False),
        ("ship_to", {"city": "Ulm", "zip": "x"}, False),
        ("days", ["2026-01-01", "2026-01-01"], False),
        ("days", ["2026-01-01", "2026-01-02"], True),
        ("contact", "a@b.example", True),
        ("contact", [], False),
    ],
)
def test_value_is_checked_against_the_whole_schema(field: str, value: Any, is_valid: bool) -> None:
    assert (fields.fault(SCHEMA, field, value) is None) is is_valid


@pytest.mark.parametrize("value", [1e308, 1e-320, 10**400, float("nan"), float("-inf")])
def test_weird_numbers_are_answered_not_raised(value: float) -> None:
    schema = one({"type": "number", "multipleOf": 1e-300, "maximum": 1e9})
    assert isinstance(fields.fault(schema, "field", value), str)


def test_pattern_that_explodes_elsewhere_takes_no_time() -> None:
    schema = one({"type": "string", "pattern": "^(a+)+$"})
    fields.check(schema)
    started = time.process_time()
    assert fields.fault(schema, "field", "a" * 30_000 + "!") is not None
    assert time.process_time() - started < 1


EVIL = [
    "a" * 30_000,
    "http://" + "1." * 15_000,
    "a@" * 15_000,
    "2026-01-01T" + "0" * 30_000,
    "é" * 30_000,
    ":" * 30_000,
]


@pytest.mark.parametrize("name", schema_rules.FORMATS)
def test_format_is_known_to_the_checker_and_takes_no_time(name: str) -> None:
    schema = one({"type": "string", "format": name})
    fields.check(schema)
    assert fields.fault(schema, "field", "\n") is not None or name == "uri-reference"
    started = time.process_time()
    for text in EVIL:
        fields.fault(schema, "field", text)
    assert time.process_time() - started < 1


def test_long_list_of_mixed_items_takes_no_time() -> None:
    schema = one({"type": "array", "items": {"type": ["string", "integer"]}, "uniqueItems": True})
    started = time.process_time()
    assert fields.fault(schema, "field", [*range(8000), *map(str, range(8000))]) is None
    assert time.process_time() - started < 5


def test_missing_are_the_required_fields_without_a_value() -> None:
    assert fields.missing(SCHEMA, {"colour": "red", "count": None}) == ("number", "count")
    assert fields.missing(SCHEMA, {"number": "4411", "count": 1}) == ()


def test_missing_is_what_another_stage_took_in_another_form() -> None:
    assert fields.missing(SCHEMA, {"number": "4411", "count": "some"}) == ("count",)


def test_whole_numbers_are_taken_as_such() -> None:
    pruned = fields.pruned(one({"type": ["integer", "null"]}), "field", 5.0)
    assert (pruned, type(pruned)) == (5, int)
    assert fields.pruned(one({"type": "number"}), "field", 5.5) == 5.5


@pytest.mark.parametrize(
    ("node", "right", "wrong"),
    [
        ({"type": "string", "format": "time"}, ["10:00:00Z", "10:00:00+02:00", "10:00:00"], ["10", "25:00:00", "ten"]),
        ({"type": "string", "format": "email"}, ["a@b.example"], ["reach me @ home", "@", "a@", "a b@c.example"]),
        ({"type": "number", "multipleOf": 0.01}, [19.99, 0.29, 4.35, 10, 1e300], [19.995]),
        ({"type": "number", "multipleOf": 0.1}, [0.3], [0.35]),
    ],
)
def test_forms_and_steps_are_those_that_people_mean(node: Any, right: list[Any], wrong: list[Any]) -> None:
    assert [value for value in right if fields.fault(one(node), "field", value) is not None] == []
    assert [value for value in wrong if fields.fault(one(node), "field", value) is None] == []


DEEP: dict[str, Any] = {"type": "string"}
for _ in range(5):
    DEEP = {"type": "array", "items": DEEP}
FAN_OUT = {f"d{step}": {"anyOf": [{"$ref": f"#/$defs/d{step + 1}"}] * 4} for step in range(7)}
CHAIN = {f"d{step}": {"$ref": f"#/$defs/d{step + 1}"} for step in range(20)}
STRING = {"type": "string"}
FIRST = {"$ref": "#/$defs/d0"}

REFUSED: list[tuple[Any, str]] = [
    ([], "output_schema is not an object"),
    ({}, 'must say "type": "object"'),
    ({"type": "array"}, 'must say "type": "object"'),
    ({"type": "object", "oneOf": [{}]}, "oneOf: not allowed at the root"),
    ({"type": "object", "additionalProperties": STRING}, "additionalProperties: only true or false"),
    ({"type": "object", "$schema": "http://json-schema.org/draft-07/schema#"}, "$schema: "),
    ({"type": "object", "properties": []}, "properties: not valid JSON Schema"),
    ({"type": "object", "required": ["field"]}, "required: 'field' is not among the properties"),
    (one(STRING, required=["other"]), "required: 'other' is not among the properties"),
    (one({"type": "strin"}), "properties.field.type: not valid JSON Schema"),
    (one(True), "properties.field: true and false"),
    (one({}), "properties.field: no type"),
    (one({"type": "object"}), "properties.field: an object needs properties"),
    (one({"type": "object", "additionalProperties": STRING, "properties": {"a": STRING}}), "additionalProperties"),
    (one({"type": "object", "properties": {"a b": STRING}}), "'a b' is not a field name"),
    (one({"type": "object", "properties": {"a": STRING}, "required": ["b"]}), "properties.field.required: 'b'"),
    (one({"type": "array"}), "properties.field: an array needs items"),
    (one({"type": "array", "items": {"type": "object"}}), "properties.field.items: an object needs properties"),
    (one({"type": "string", "pattern": "(?=x)y"}), "properties.field.pattern: '(?=x)y' cannot be used"),
    (one({"type": "string", "pattern": r"(a)\1"}), "look-around and backreferences are not supported"),
    (one({"type": "string", "pattern": "("}), "properties.field.pattern"),
    (one({"type": "string", "format": "iri"}), "properties.field.format: 'iri' is not known"),
    (one({"type": "string", "format": "postcode"}), "properties.field.format: 'postcode' is not known"),
    (one({"type": "string", "enum": []}), "properties.field.enum: it is empty"),
    (one({"const": None}), "properties.field: only null would fit"),
    (one({"type": "null"}), "properties.field: only null would fit"),
    (one({"type": "string", "minLength": 3, "maxLength": 2}), "properties.field.minLength: more than maxLength"),
    (one({"type": "number", "minimum": 1, "maximum": 0}), "properties.field.minimum: more than maximum"),
    (one({"type": "string", "enum": [1]}), "properties.field.enum: 1 is not of the field's type"),
    (one({"enum": [{"a": 1}]}), "properties.field.enum: only strings"),
    (one({"enum": list(range(1001))}), "properties.field.enum: more than 1000"),
    (one({"anyOf": [STRING, {"type": "object"}]}), "properties.field.anyOf.1: an object needs properties"),
    (one({"type": "string", "anyOf": [{"minLength": 1}]}), "properties.field.type: not allowed beside anyOf"),
    (one({"$ref": "#/$defs/a", "minLength": 2}, **{"$defs": {"a": STRING}}), "properties.field.minLength: not allowed"),
    (one({"$ref": "https://example.org/x"}), "properties.field.$ref: 'https://example.org/x' is not found"),
    (one({"$ref": "#/properties/other"}), "is not found"),
    (one({"$ref": "#/$defs/a"}, **{"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}}), "contains itself"),
    (one(FIRST, **{"$defs": FAN_OUT | {"d7": STRING}}), "more than 2000 parts"),
    (one(FIRST, **{"$defs": CHAIN | {"d20": STRING}}), "more than 8 references in a row"),
    (one(STRING, **{"$defs": {"a": STRING}}), "$defs.a: no field refers to it"),
    (one(DEEP), "nested more than 5 deep"),
    ({"type": "object", "properties": {"a b": STRING}}, "'a b' is not a field name"),
    ({"type": "object", "properties": {f"f{number}": STRING for number in range(101)}}, "101 fields; use at most 100"),
    *[
        (one({"type": "string", keyword: value}), f"properties.field.{keyword}: not allowed in a field")
        for keyword, value in {
            "oneOf": [STRING],
            "allOf": [STRING],
            "not": STRING,
            "if": STRING,
            "patternProperties": {},
            "dependentRequired": {},
            "dependentSchemas": {},
            "$id": "x",
            "$anchor": "x",
            "$dynamicRef": "#x",
            "contentEncoding": "base64",
            "x-own": 1,
        }.items()
    ],
]


@pytest.mark.parametrize(("schema", "words"), REFUSED)
def test_schema_that_cannot_be_used_is_refused_with_its_place(schema: Any, words: str) -> None:
    with pytest.raises(BadSchema) as caught:
        fields.check(schema)
    assert words in str(caught.value)


@pytest.mark.parametrize("value", ["text", "", 5, 5.0, 5.5, 2**70, True, None, [], ["a"], {}, {"a": 1}])
def test_the_quick_way_past_plain_types_says_what_the_library_says(value: Any) -> None:
    names = ["string", "number", "integer", "boolean", "null", "array", "object"]
    wanted: list[Any] = [*names, *([one, other] for one in names for other in names if one != other)]
    nodes = [{"type": each, "description": "d"} for each in wanted] + [{"type": "string", "enum": ["text"]}, {}, True]
    for node in [*nodes, False, {"type": "number", "maximum": 5}]:
        schema = {"type": "object", "properties": {"a": node}}
        is_valid = Draft202012Validator(schema).is_valid({"a": value})
        assert (fields.schema_fault(schema, {"a": value}) is None) == is_valid, node
