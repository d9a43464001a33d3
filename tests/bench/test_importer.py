"""The dialogue file and its way into the API."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import importer
from tests.bench import dialogues


def test_file_is_read_with_its_stages_and_turns(tmp_path: Path) -> None:
    (service,) = importer.read(dialogues.write(tmp_path))
    assert service.service == "Repairs"
    assert [stage.stage_name for stage in service.stages] == ["AskPrice", "BookRepair"]
    assert [len(dialogue.turns) for dialogue in service.dialogues] == [6, 1]
    asking, priced = service.dialogues[0].turns[:2]
    assert priced.data == {"item": "lamp", "speed": "dontcare"}
    assert (asking.call, asking.results) == (None, ())
    assert (priced.call, [row["price"] for row in priced.results]) == ({"item": "Lamp"}, ["20", "35"])


def test_fields_become_an_output_schema_whose_enums_take_no_preference(tmp_path: Path) -> None:
    (service,) = importer.read(dialogues.write(tmp_path))
    assert importer.output_schema(service.stages[0]) == {
        "type": "object",
        "properties": {
            "item": {"type": "string", "description": "What is broken"},
            "speed": {
                "type": "string",
                "description": "How fast it must be",
                "enum": ["today", "this week", "dontcare"],
            },
        },
        "required": ["item"],
    }


def test_enum_that_has_no_preference_already_names_it_once() -> None:
    field = importer.Field("How fast", ("today", "dontcare"))
    stage = importer.Stage("AskPrice", "Price", (), {"speed": field})
    assert importer.output_schema(stage)["properties"]["speed"]["enum"] == ["today", "dontcare"]


@pytest.mark.parametrize("text", ["not json", "[]", '{"cases": [{}]}', '{"cases": 3}'])
def test_other_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(importer.BadFile, match=r"other\.json is not a dialogue file"):
        importer.read(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(importer.BadFile, match="cannot be read"):
        importer.read(tmp_path / "nowhere.json")


def test_server_that_is_not_there_gives_status_zero() -> None:
    answer = importer.Api("http://127.0.0.1:1", "key").request("GET", "/readyz")
    assert answer.status == 0
    assert "refused" in answer.body
