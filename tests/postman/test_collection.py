"""The Postman collection: complete, the one that is checked in, and it runs, by Postman's own runner."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from api import openapi, postman
from api.launch import PROJECT
from tests.conftest import MASTER_KEY
from tests.node import node_tools

COLLECTION = PROJECT / "docs" / "icmp.postman_collection.json"
NEWMAN = node_tools.tool("newman/bin/newman.js")


def _requests(folder: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for item in folder["item"]:
        yield from _requests(item) if "item" in item else [item]


def test_the_checked_in_collection_is_fresh(flask_app: Flask) -> None:
    wanted = postman.text(openapi.document(flask_app))
    stale = "stale: run `.venv/bin/flask --app app postman docs/icmp.postman_collection.json`"
    assert COLLECTION.read_text(encoding="utf-8") == wanted, stale


def test_every_operation_is_called_by_a_step_of_its_own(flask_app: Flask) -> None:
    paths = openapi.document(flask_app)["paths"]
    operations = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    named = {step["operation"] for folder in postman.steps() for step in folder["steps"]}
    assert named - operations == set()
    assert operations - named == set(), "write a step for each in api/postman.json"


def test_an_operation_without_a_step_is_called_before_what_was_made_is_deleted(flask_app: Flask) -> None:
    document = openapi.document(flask_app)
    document["paths"]["/new"] = {"get": document["paths"]["/healthz"]["get"]}
    folders = postman.collection(document)["item"]
    assert "{{baseUrl}}/new" in [item["request"]["url"]["raw"] for item in folders[-2]["item"]]
    assert folders[-1]["name"] == "Clean up"


def test_every_request_is_checked_and_every_answer_has_an_example(flask_app: Flask) -> None:
    items = list(_requests(postman.collection(openapi.document(flask_app))))
    for item in items:
        script = item["event"][0]["script"]["exec"]
        assert any("to.have.status(" in line for line in script), item["name"]
        assert all(json.loads(each["body"]) is not None for each in item["response"])
    assert sum(bool(item["response"]) for item in items) > 50


@pytest.mark.skipif(NEWMAN is None, reason=node_tools.MISSING)
def test_the_collection_runs_from_nothing_to_nothing(port: int, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [*(NEWMAN or ()), "run", str(COLLECTION), "--reporters", "cli,json"]
    command += ["--reporter-json-export", str(report), "--color", "off", "--timeout-request", "30000"]
    command += ["--env-var", f"baseUrl=http://127.0.0.1:{port}", "--env-var", f"masterKey={MASTER_KEY}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr
    run = json.loads(report.read_text(encoding="utf-8"))["run"]
    requests = sum(1 for _ in _requests(json.loads(COLLECTION.read_text(encoding="utf-8"))))
    assert run["stats"]["requests"]["total"] == requests
    assert run["stats"]["assertions"]["total"] > 3 * requests
