"""A set-up as a file: what the command line writes, reads and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from flask import Flask

from api import bodies, config_file, demo
from tests.conftest import Client


def test_the_command_line_writes_and_reads_files(
    flask_app: Flask, alice: Client, charlie: Client, tmp_path: Path
) -> None:
    runner = flask_app.test_cli_runner()
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    told = runner.invoke(args=["import-config", alice.business_id, str(demo.SET_UP)])
    assert told.exit_code == 0, told.output
    assert "created stages: order_status\n" in told.output
    assert runner.invoke(args=["export-config", alice.business_id, str(first)]).exit_code == 0
    assert "    Customer: Where is my parcel?\n" in first.read_text()
    tried = runner.invoke(args=["import-config", charlie.business_id, str(first), "--dry-run"])
    assert "created stages: order_status\n" in tried.output
    assert charlie.get("/api/v1/stages").body == []
    assert runner.invoke(args=["import-config", charlie.business_id, str(first)]).exit_code == 0
    assert runner.invoke(args=["export-config", charlie.business_id, str(second)]).exit_code == 0
    assert second.read_bytes() == first.read_bytes()
    again = runner.invoke(args=["import-config", charlie.business_id, str(first)])
    assert not any(line.startswith(("created", "changed", "deleted")) for line in again.output.splitlines())


def test_a_set_up_that_no_request_could_bring_comes_from_a_file(
    flask_app: Flask, alice: Client, tmp_path: Path
) -> None:
    for number in range(80):
        body = {"name": f"P{number}", "description": f"{number:03} " * 4000}
        assert alice.post("/api/v1/products", body).status == 201
    file, runner = tmp_path / "set_up.yaml", flask_app.test_cli_runner()
    assert runner.invoke(args=["export-config", alice.business_id, str(file)]).exit_code == 0
    assert file.stat().st_size > bodies.MAX_BYTES
    again = runner.invoke(args=["import-config", alice.business_id, str(file)])
    assert (again.exit_code, "unchanged products: 80" in again.output) == (0, True), again.output


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("version: 1\nversion: 1\n", "'version' stands twice"),
        ("a: &a [x]\nb: *a\n", "aliases"),
        ("a: !!python/object/apply:os.system [ls]\n", "tags"),
        ("a: [\n", "line 2"),
        ("[" * 5000, "nested"),
        ("a: " + "x" * 16 * 1024 * 1024, "larger"),
        ('a: "\\0"', "NUL"),
        ("a: .nan", "version: missing"),
        ("a: 1e999", "Infinity"),
        ("", "body: expected object"),
    ],
)
def test_a_bad_file_is_one_line_on_the_command_line(
    flask_app: Flask, alice: Client, tmp_path: Path, text: str, reason: str
) -> None:
    file = tmp_path / "set_up.yaml"
    file.write_text(text)
    result = flask_app.test_cli_runner().invoke(args=["import-config", alice.business_id, str(file)])
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert result.output.startswith("Error: ")
    assert reason in result.output


def test_scalars_of_a_file_mean_what_they_mean_in_json() -> None:
    text = "{no: no, day: 2026-11-23, open: 9:30, sku: 0077, n: 7, x: -1.5e3, yes: true, none: ~, empty: , 1: one}"
    assert config_file.parsed(text.encode()) == {
        "no": "no",
        "day": "2026-11-23",
        "open": "9:30",
        "sku": "0077",
        "n": 7,
        "x": -1500.0,
        "yes": True,
        "none": None,
        "empty": None,
        "1": "one",
    }
