"""The OpenAPI document: valid, complete, and the one that is checked in."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

import schemas
from api import openapi
from tests.conftest import Client

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def document(anybody: Client) -> dict[str, Any]:
    """What the server gives away."""
    answer = anybody.get("/openapi.json")
    assert answer.status == 200
    body: dict[str, Any] = answer.body
    return body


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for item in node:
            yield from _references(item)


def test_the_document_is_valid_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    assert [fault.message for fault in OpenAPIV31SpecValidator(document).iter_errors()] == []


def test_every_route_is_in_it_and_nothing_else(document: dict[str, Any], flask_app: Flask) -> None:
    routes = {
        (method, rule.rule.replace("<", "{").replace(">", "}"))
        for rule in flask_app.url_map.iter_rules()
        if not rule.endpoint.startswith("swagger_ui.")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert {(method, path) for method, path, _ in _operations(document)} == routes


def test_every_reference_resolves(document: dict[str, Any]) -> None:
    known = {f"#/components/{kind}/{name}" for kind, parts in document["components"].items() for name in parts}
    found = set(_references(document))
    assert found
    assert found - known == set()


def test_examples_are_valid_by_the_schemas_of_the_document(document: dict[str, Any]) -> None:
    for name, schema in document["components"]["schemas"].items():
        # The definitions go along, so that references resolve as they do for a reader of the document.
        alone = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        validator = Draft202012Validator(alone, format_checker=schemas.FORMATS)
        assert [
            f"{name}: {fault.message}" for example in schema["examples"] for fault in validator.iter_errors(example)
        ] == []


def test_every_body_of_every_operation_has_an_example_that_is_valid(document: dict[str, Any]) -> None:
    distinct = {}
    for method, path, operation in _operations(document):
        for place, body in _bodies(document, operation):
            assert body["examples"], f"{method} {path} {place}"
            distinct[json.dumps(body)] = body
    assert len(distinct) > 50
    for body in distinct.values():
        # The definitions go along, so that references resolve as they do for a reader of the document.
        validator = Draft202012Validator(body["schema"] | {"components": document["components"]})
        found = [_resolved(document, example)["value"] for example in body["examples"].values()]
        assert [fault.message for example in found for fault in validator.iter_errors(example)] == []


def _bodies(document: dict[str, Any], operation: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every JSON body, with where it stands."""
    for place, part in {"request": operation.get("requestBody", {}), **operation["responses"]}.items():
        content = _resolved(document, part).get("content", {})
        if "application/json" in content:
            yield place, content["application/json"]


def _resolved(document: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in node:
        return node
    found: Any = document
    for step in node["$ref"].removeprefix("#/").split("/"):
        found = found[step]
    return dict(found)


def test_an_operation_names_its_keys_and_its_errors(document: dict[str, Any]) -> None:
    for method, path, operation in _operations(document):
        place = f"{method} {path}"
        assert operation["summary"].endswith("."), place
        errors = {status for status in operation["responses"] if status == "default" or status >= "400"}
        assert {"400", "default"} <= errors, place
        if operation["security"]:
            assert {"401", "403", "503"} <= errors, place
            # A scrape must not depend on the place of the buckets, whose faults it tells of.
            assert ("429" in errors) is (path != "/metrics"), place
        for status in errors - ({"503"} if path == "/readyz" else set()):
            assert operation["responses"][status] == {"$ref": f"#/components/responses/{status}"}, place


def test_headers_of_answers_are_described(document: dict[str, Any], alice: Client) -> None:
    created = alice.post("/api/v1/products", {"name": "Atlas"})
    listed = alice.get("/api/v1/products?limit=1")
    for answer, operation in ((created, "post"), (listed, "get")):
        told = document["paths"]["/api/v1/products"][operation]["responses"][str(answer.status)]["headers"]
        assert set(told) - set(answer.headers) <= {"Link"}, operation
        assert {name for name in answer.headers if name in document["components"]["headers"]} <= set(told)
    assert "Idempotent-Replayed" in document["paths"]["/api/v1/messages"]["post"]["responses"]["200"]["headers"]
    assert {"Retry-After", "RateLimit-Reset"} <= set(document["components"]["responses"]["429"]["headers"])


def test_every_error_has_the_one_shape(document: dict[str, Any]) -> None:
    for response in document["components"]["responses"].values():
        (kind, body) = next(iter(response["content"].items()))
        assert (kind, body["schema"]) == ("application/json", {"$ref": "#/components/schemas/error"})


def test_operation_ids_are_unique(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, _, operation in _operations(document)]
    assert len(ids) == len(set(ids))


def test_the_version_is_the_projects(document: dict[str, Any]) -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert document["info"]["version"] == project["version"]


def test_the_checked_in_document_is_fresh(document: dict[str, Any], flask_app: Flask) -> None:
    stored = (PROJECT / "docs" / "openapi.json").read_text(encoding="utf-8")
    assert json.loads(stored) == document, "stale: run `.venv/bin/flask --app app openapi docs/openapi.json`"
    assert stored == openapi.text(flask_app)
