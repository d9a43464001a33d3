"""The command line against a small server of its own, from the start of the server to the exit code."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import play
from tests.bench import dialogues

STAND_IN = f"{shlex.quote(sys.executable)} {shlex.quote(str(Path(__file__).with_name('stand_in.py')))}"


def run(folder: Path, *options: str) -> tuple[int, Any]:
    """The exit code and the report of one play, in oracle mode unless the options name another."""
    report = folder / "report.json"
    common = ["--file", str(dialogues.write(folder)), "--mode", "oracle", "--json", str(report)]
    code = play.main([*common, "--app-command", STAND_IN, *options])
    return code, json.loads(report.read_text()) if report.exists() else None


def test_dialogues_are_played_without_mismatch(tmp_path: Path) -> None:
    code, report = run(tmp_path)
    assert code == 0
    assert report["mismatches"] == []
    assert (report["turns"], report["stage_equal"], report["missing_fields_equal"]) == (7, 7, 7)
    assert report["fields_expected"] == report["fields_equal"] == 10
    assert report["oracle_calls"]["total"] == {
        "stage_selection": 7,
        "data_extraction": 9,
        "response_generation": 7,
    }
    assert report["oracle_calls"]["speculation_missed"] == 2


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("forget data", "data.item is None instead of 'lamp'"),
        ("stay", "stage is 'AskPrice' instead of 'BookRepair'"),
        ("crash", "answered 500"),
        ("alter message", "response_generation was asked about ''"),
    ],
)
def test_wrong_app_is_found_out(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: str,
    words: str,
) -> None:
    monkeypatch.setenv("FAULT", fault)
    code, report = run(tmp_path)
    assert code == 1
    assert any(words in line for line in report["mismatches"])
    assert words in capsys.readouterr().out


def test_look_ups_ask_and_find_what_the_file_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, report = run(tmp_path, "--mode", "retrieval")
    assert (code, report["mismatches"]) == (0, [])
    figures = report["look_ups"]
    # Complete are the second turn, the two last of the first dialogue, and the second dialogue.
    assert all((row["turns"], row["due"], row["made"], row["equal"]) == (7, 4, 4, 4) for row in figures.values())
    called = ("file_calls", "file_calls_made", "file_calls_alike")
    assert all([row[name] for name in called] == [2, 2, 1] for row in figures.values())
    assert [(row["rows_due"], row["rows_reached"]) for row in figures.values()] == [(3, 3)] * 3
    assert [row["file_rows_reached"] for row in figures.values()] == [3, 3, 3]
    assert "| api_call | 7 | 4 | 4 | 4 | 3 | 3 | 2 | 2 | 1 | 3 | 3 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (
            "look up early",
            "turn 1 ('What would a repair be?'): looked up [Request(path='/Repairs/AskPrice', query=())]",
        ),
        ("alter value", "looked up [Request(path='/Repairs/AskPrice', query=(('item', 'other'), ('speed', 'other')))]"),
        ("alter value", "database_query where: Repairs r_1 turn 2"),
        ("forget rows", "prompt 3 shows None instead of [{'item': 'lamp', 'price': '20'}"),
    ],
)
def test_wrong_look_up_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, words: str) -> None:
    monkeypatch.setenv("FAULT", fault)
    code, report = run(tmp_path, "--mode", "retrieval")
    assert code == 1
    assert any(words in line for line in report["mismatches"]), report["mismatches"]


def test_other_models_are_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    code, report = run(tmp_path, "--mode", "plain")
    assert code == 0
    assert report["models"] == ["stand-in"]
    # Without a model it stays in the first stage, which is right for two turns of five.
    assert (report["overall"]["stage_accuracy"], report["overall"]["recall"]) == (0.4, 0.0)
    assert "| Repairs | 7 | 0.400 |" in capsys.readouterr().out


def test_failed_turns_of_other_models_fail_the_play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULT", "crash")
    code, report = run(tmp_path, "--mode", "plain")
    assert (code, report["overall"]["answers_5xx"]) == (1, 7)


def test_rate_limit_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULT", "limit")
    code, report = run(tmp_path)
    assert (code, report["waits_for_rate_limit"]) == (0, 7)


def test_refused_setting_is_noted_and_played_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAULT", "refuse settings")
    assert run(tmp_path)[0] == 0
    assert "settings.messages_per_minute was refused (400" in capsys.readouterr().out


def test_refused_import_and_dead_app_are_told_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAULT", "refuse stages")
    assert run(tmp_path)[0] == 2
    assert "POST /api/v1/stages gave 400" in capsys.readouterr().err
    monkeypatch.setenv("FAULT", "end at once")
    assert run(tmp_path)[0] == 2
    assert "the port is taken" in capsys.readouterr().err


def test_unknown_service_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--service", "Other")[0] == 2
    assert "no service 'Other'" in capsys.readouterr().err


def test_app_must_be_named_in_one_way(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        run(tmp_path, "--url", "http://127.0.0.1:1")
