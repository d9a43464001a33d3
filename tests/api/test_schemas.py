"""The validator is the library's with shortcuts: it must find what the library finds, and stay within its bounds."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

import schemas

WRONG: tuple[Any, ...] = (None, True, -1, 1e300, "", "x" * 5000, "2026-02-30T00:00:00Z", [], [1, 1], {}, {"x": {}})
PLAIN = Registry[Any]().with_resources(
    (f"{name}.json", DRAFT202012.create_resource(schemas.document(name))) for name in schemas.names()
)


def _found(validator: Any, value: Any) -> list[tuple[str, str]]:
    return [(error.json_path, str(error.validator)) for error in validator.iter_errors(value)]


def _spoiled(example: Any) -> Iterator[Any]:
    """The example, and copies of it each with another field replaced, left out or added."""
    yield example
    yield from WRONG
    for name in example if isinstance(example, dict) else ():
        yield {other: value for other, value in example.items() if other != name}
        for wrong in WRONG:
            yield copy.deepcopy(example) | {name: wrong, "unknown": wrong}


@pytest.mark.parametrize("name", schemas.names())
def test_each_schema_finds_what_the_library_finds(name: str) -> None:
    document = schemas.document(name)
    library = Draft202012Validator(document, registry=PLAIN, format_checker=schemas.FORMATS)
    for example in document.get("examples", [{}]):
        for value in _spoiled(example):
            ours = [fault for fault in _found(schemas.validator(name), value) if fault[1] != "uniqueItems"]
            assert ours == [fault for fault in _found(library, value) if fault[1] != "uniqueItems"]
            assert not (schemas.quick(name)(value) and ours)


@pytest.mark.parametrize("name", ["message_request", "event_batch", "event_create"])
def test_what_comes_most_often_is_quickly_found_right(name: str) -> None:
    for example in schemas.document(name)["examples"]:
        assert schemas.quick(name)(example)


def test_too_long_a_list_is_not_looked_through_behind_a_reference_either() -> None:
    assert _found(schemas.validator("event_batch"), [{}] * 501) == [("$", "maxItems")]
    referring = schemas.BoundedValidator({"$ref": "event_batch.json"}, registry=PLAIN)
    assert _found(referring, [{}] * 501) == [("$", "maxItems")]
