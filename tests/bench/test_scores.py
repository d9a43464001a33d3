"""What a reply is expected to say, and how replies are counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import importer, oracle, scores
from tests.bench import dialogues


@pytest.fixture
def service(tmp_path: Path) -> importer.Service:
    (service,) = importer.read(dialogues.write(tmp_path))
    return service


def replied(stage_name: str, data: dict[str, Any], missing_fields: list[str]) -> importer.Answer:
    body = {"stage": {"stage_name": stage_name}, "data": data, "missing_fields": missing_fields, "model": "m"}
    return importer.Answer(200, body, 10.0)


def played(service: importer.Service, *answers: importer.Answer) -> list[scores.PlayedTurn]:
    """The first dialogue's turns with the given answers."""
    results: list[scores.PlayedTurn] = []
    stage_before: str | None = None
    for number, (turn, answer) in enumerate(zip(service.dialogues[0].turns, answers, strict=False), start=1):
        one = scores.PlayedTurn(service, "r_1", number, turn, answer, stage_before, calls=oracle.Calls())
        results.append(one)
        stage_before = one.stage_name or stage_before
    return results


def right_answers() -> list[importer.Answer]:
    lamp, radio = {"item": "lamp", "speed": "dontcare"}, {"item": "radio", "speed": "dontcare"}
    return [
        replied("AskPrice", {}, ["item"]),
        replied("AskPrice", lamp, []),
        replied("BookRepair", lamp, ["day"]),
        replied("BookRepair", lamp, ["day"]),
        replied("BookRepair", {**radio, "day": "friday"}, []),
        replied("BookRepair", {**radio, "day": "friday"}, []),
    ]


def test_expected_missing_fields_follow_the_data(service: importer.Service) -> None:
    course = scores.Course({stage.stage_name: stage for stage in service.stages})
    expected = [course.advance(turn, None) for turn in service.dialogues[0].turns]
    assert [one.missing_fields for one in expected] == [["item"], [], ["day"], ["day"], [], []]
    assert [one.stage_name for one in expected] == ["AskPrice", "AskPrice", *["BookRepair"] * 4]
    assert expected[4].fields == {"item": "radio", "day": "friday"}


def test_value_that_the_file_drops_stays_known(service: importer.Service) -> None:
    course = scores.Course({stage.stage_name: stage for stage in service.stages})
    course.advance(importer.Turn("Book my clock", "BookRepair", {"item": "clock"}, ""), None)
    dropped = course.advance(importer.Turn("What is the price?", "AskPrice", {}, ""), None)
    assert dropped.missing_fields == []
    assert dropped.fields == {}


def test_value_of_another_stages_field_is_not_gathered(service: importer.Service) -> None:
    course = scores.Course({stage.stage_name: stage for stage in service.stages})
    course.advance(importer.Turn("Cost?", "AskPrice", {"day": "Monday"}, ""), None)
    assert "day" in course.advance(importer.Turn("Book", "BookRepair", {}, ""), None).missing_fields


def test_dialogue_that_begins_with_no_stage_goes_on_from_the_reply(service: importer.Service) -> None:
    course = scores.Course({stage.stage_name: stage for stage in service.stages})
    first = course.advance(importer.Turn("Hello", "NONE", {}, ""), "BookRepair")
    assert (first.stage_name, first.missing_fields) == (None, ["item", "day"])
    assert course.advance(importer.Turn("Hm", "NONE", {}, ""), "AskPrice").stage_name == "BookRepair"


def test_right_answers_have_no_mismatch(service: importer.Service) -> None:
    report = scores.oracle_report(played(service, *right_answers()))
    assert report["mismatches"] == []
    assert (report["turns"], report["stage_equal"], report["missing_fields_equal"]) == (6, 6, 6)
    # The last turn has no stage: its two values are those of the stage that stays.
    assert (report["fields_expected"], report["fields_equal"]) == (2 + 1 + 1 + 2 + 2, 8)


def test_every_mismatch_is_told(service: importer.Service) -> None:
    answers = right_answers()
    answers[1] = replied("BookRepair", {"item": "Lamp"}, ["day"])
    answers[4] = importer.Answer(500, {"error_code": "SERVER_ERROR"}, 1.0)
    report = scores.oracle_report(played(service, *answers))
    assert [line.split("): ", 1)[1] for line in report["mismatches"]] == [
        "stage is 'BookRepair' instead of 'AskPrice'",
        "data.item is 'Lamp' instead of 'lamp'",
        "data.speed is None instead of 'dontcare'",
        "missing_fields is ['day'] instead of []",
        "answered 500 {'error_code': 'SERVER_ERROR'}",
    ]
    assert report["answers_5xx"] == 1


def test_oracle_calls_are_counted_by_kind(service: importer.Service) -> None:
    turns = played(service, *right_answers()[:2])
    for one, extractions in zip(turns, (1, 2), strict=True):
        assert one.calls is not None
        one.calls.by_kind.update({"stage_selection": 1, "data_extraction": extractions})
    counts = scores.oracle_report(turns)["oracle_calls"]
    assert counts["per_turn"] == {
        "stage_selection": 1.0,
        "data_extraction": 1.5,
        "response_generation": 0.0,
    }
    assert counts["speculation_missed"] == 1


def test_perfect_replies_score_one(service: importer.Service) -> None:
    overall = scores.quality_report(played(service, *right_answers()))["overall"]
    assert overall["stage_accuracy"] == overall["stage_accuracy_all"] == 1.0
    assert overall["recall"] == 1.0
    assert (overall["fields_true"], overall["fields_right"]) == (5, 5)


def test_values_are_compared_normalised_and_wrong_ones_cost_precision(service: importer.Service) -> None:
    answers = [
        replied("BookRepair", {"item": "thing"}, []),
        replied("AskPrice", {"item": " LAMP "}, []),
    ]
    overall = scores.quality_report(played(service, *answers))["overall"]
    assert overall["stage_accuracy"] == 0.5
    assert (overall["precision"], overall["recall"], overall["f1"]) == (0.5, 0.5, 0.5)


def test_turn_of_no_stage_is_right_when_the_stage_stays(service: importer.Service) -> None:
    answers = right_answers()
    answers[3] = replied("AskPrice", {}, [])
    overall = scores.quality_report(played(service, *answers))["overall"]
    assert overall["stage_accuracy"] == 1.0
    assert overall["stage_accuracy_all"] == pytest.approx(5 / 6)


def test_failed_turn_counts_as_wrong_and_empty(service: importer.Service) -> None:
    answers = [replied("AskPrice", {}, ["item"]), importer.Answer(503, None, 99.0)]
    overall = scores.quality_report(played(service, *answers))["overall"]
    assert overall["stage_accuracy"] == 0.5
    assert (overall["precision"], overall["recall"], overall["answers_5xx"]) == (None, 0.0, 1)
    assert overall["p95_ms"] == 10.0


def test_table_has_a_row_for_each_service_and_for_all(service: importer.Service) -> None:
    table = scores.quality_table(scores.quality_report(played(service, *right_answers()))).splitlines()
    assert [row.split("|")[1].strip() for row in table[2:]] == ["Repairs", "all"]
    assert table[2].split("|")[3].strip() == "1.000"


def test_percentile_is_a_value_that_occurred() -> None:
    assert scores.percentile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.0
    assert scores.percentile(map(float, range(1, 101)), 0.95) == 95.0
    assert scores.percentile([7.0], 0.95) == 7.0
    assert scores.percentile([], 0.5) is None
