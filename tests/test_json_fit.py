"""The quick yes must never be wrong: whatever it says yes to, the library finds right."""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Callable
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker

import json_fit

FORMATS = FormatChecker(["date", "ipv4", "email"])
DOCUMENTS = {"elsewhere": {"type": "string"}}
MEANING = json_fit.Meaning(FORMATS, re.compile, document=lambda name: DOCUMENTS.get(name, False))
TEXTS = ("", "a", "ab", "a1", "2026-11-28", "2026-02-30", "10.0.0.1", "x@y", "long text")
NUMBERS = (0, 1, -1, 2, 5, 1.0, 2.5, True, False, 2**70, float("nan"))
NAMES = ("a", "b", "c")
SIZES = ("minLength", "maxLength", "minItems", "maxItems", "minProperties")
LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
ROUNDS = 12_000


def _value(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.randrange(5 if depth < 3 else 3)
    if kind == 3:
        return [_value(chance, depth + 1) for _ in range(chance.randrange(3))]
    if kind == 4:
        return {name: _value(chance, depth + 1) for name in NAMES if chance.random() < 0.6}
    return chance.choice(TEXTS) if kind else chance.choice([*NUMBERS, None])


def _schema(chance: random.Random, depth: int = 0) -> Any:
    """A node of any keywords, most of them with a type, as people write them."""
    if depth > 3 or chance.random() < 0.1:
        return chance.choice([True, False, {}, {"description": "words"}, {"$ref": "#/$defs/other"}])
    types = chance.sample(["string", "number", "integer", "boolean", "null", "array", "object"], chance.randrange(1, 4))
    below = functools.partial(_schema, chance, depth + 1)
    # Made only when chosen: all of them, down to the last level, would be thousands of nodes.
    keywords: dict[str, Callable[[], Any]] = {
        "enum": lambda: chance.sample([*TEXTS, *NUMBERS[:6], None, []], 3),
        "const": lambda: chance.choice([*TEXTS, 1, True, None]),
        "pattern": lambda: chance.choice(["a", "^a$", "[0-9]"]),
        "format": lambda: chance.choice(["date", "ipv4", "email", "unheard"]),
        **dict.fromkeys(SIZES, lambda: chance.randrange(3)),
        **dict.fromkeys(LIMITS, lambda: chance.choice([0, 1, 2.5])),
        "multipleOf": lambda: 2,
        "uniqueItems": lambda: True,
        "properties": lambda: {name: below() for name in NAMES if chance.random() < 0.7},
        "required": lambda: chance.sample(NAMES, chance.randrange(3)),
        "additionalProperties": below,
        "items": below,
        "anyOf": lambda: [below(), below()],
        "not": below,
        "if": lambda: {"type": chance.choice(["string", "number", "integer", "array"])},
        "then": below,
        "else": below,
    }
    chosen = chance.sample(sorted(keywords), chance.choice([0, 1, 1, 2, 3]))
    node = {name: keywords[name]() for name in chosen}
    return node if chance.random() < 0.2 else {"type": types if len(types) > 1 else types[0], **node}


def _rooted(chance: random.Random) -> Any:
    schema = _schema(chance)
    return schema if isinstance(schema, bool) else {**schema, "$defs": {"other": {"type": ["string", "array"]}}}


@pytest.mark.parametrize("seed", range(4))
def test_what_it_says_yes_to_is_right_and_it_says_yes_to_most(seed: int) -> None:
    chance = random.Random(seed)
    yes = right = 0
    for _ in range(ROUNDS):
        schema = _rooted(chance)
        fits = json_fit.compiled(schema, MEANING)
        library = Draft202012Validator(schema, format_checker=FORMATS)
        for value in (_value(chance) for _ in range(5)):
            is_right = library.is_valid(value)
            said = fits(value)
            assert is_right or not said, f"seed {seed}: {schema} {value!r}"
            yes, right = yes + said, right + is_right
    assert yes > right / 2


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"$ref": "elsewhere"}, "text"),
        ({"type": "string", "enum": ["a", "b"]}, "b"),
        ({"enum": ["a", None]}, None),
        ({"anyOf": [{"type": "null"}, {"type": "integer", "minimum": 1, "maximum": 3}]}, 3),
        ({"type": "string", "format": "date"}, "2026-11-28"),
        ({"type": ["object", "array"], "if": {"type": "array"}, "then": {"maxItems": 1}}, [1]),
        ({"type": "object", "properties": {"a": {"type": "null"}}, "additionalProperties": True}, {"b": ""}),
    ],
)
def test_it_says_yes(schema: Any, value: Any) -> None:
    assert json_fit.compiled(schema, MEANING)(value)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"enum": [1]}, True),
        ({"const": 0}, False),
        ({"type": "integer"}, 1.0),  # right, but the library's to say
        ({"type": "string", "format": "date"}, "2026-02-30"),
        ({"$ref": "nowhere"}, "text"),
        ({"$ref": "#/$defs/missing"}, "text"),
        # Written in another way than the name is: whoever reads it so finds another schema, or none.
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "integer"}, "a~1b": {"type": "string"}}}, "text"),
        ({"$ref": "#/$defs/a%20b", "$defs": {"a b": {"type": "integer"}, "a%20b": {"type": "string"}}}, "text"),
        ({"$ref": "#/$defs/a/b", "$defs": {"a/b": {"type": "string"}}}, "text"),
        ({"$ref": "#foo", "$defs": {"foo": {"type": "string"}, "bar": {"$anchor": "foo"}}}, "text"),
        ({"$ref": "#/properties/x", "$defs": {"/properties/x": {"type": "string"}}}, "text"),
        ({"anyOf": [{"$schema": "http://json-schema.org/draft-03/schema#", "type": "string"}]}, "text"),
        ({"type": "number", "if": {"type": "integer"}, "then": {"maximum": 0}}, 5.0),
        ({"$ref": "#"}, "text"),
        ({"type": "array", "items": {"type": "string"}, "maxItems": 1}, ["a", "b"]),
        (False, None),
        ("no schema", None),
    ],
)
def test_it_does_not_say_yes(schema: Any, value: Any) -> None:
    assert not json_fit.compiled(schema, MEANING)(value)
