"""Compare replies with the dialogue file: exact checks for the oracle, accuracy and F1 for other models."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench import importer, oracle


@dataclass(frozen=True)
class PlayedTurn:
    """One turn after it was played; `stage_before` is the stage of the last reply in its conversation, `asked` every
    look-up that was seen."""

    service: importer.Service
    dialogue_id: str
    number: int
    turn: importer.Turn
    answer: importer.Answer
    stage_before: str | None
    waits: int = 0
    calls: oracle.Calls | None = None
    asked: tuple[Any, ...] = ()

    @property
    def where(self) -> str:
        """The turn in words."""
        return f"{self.service.service} {self.dialogue_id} turn {self.number} ({self.turn.user!r})"

    @property
    def reply(self) -> dict[str, Any]:
        """The reply's body, empty when the turn was not answered with 200."""
        return self.answer.body if self.answer.status == 200 and isinstance(self.answer.body, dict) else {}

    @property
    def stage_name(self) -> str | None:
        """The stage that the reply names."""
        stage = self.reply.get("stage")
        return stage.get("stage_name") if isinstance(stage, dict) else None

    @property
    def data(self) -> dict[str, Any]:
        """The conversation's data that the reply shows."""
        data = self.reply.get("data")
        return data if isinstance(data, dict) else {}


@dataclass(frozen=True)
class Expected:
    """What the reply to one turn must say; `stage_name` None stands for any stage. `stage` is the one that the
    dialogue is in after it, `known` all that has been gathered of its fields."""

    stage_name: str | None
    fields: dict[str, str]
    missing_fields: list[str]
    stage: importer.Stage | None = None
    known: dict[str, str] = field(default_factory=dict)


@dataclass
class Course:
    """One dialogue as the contract would have it: the stage it stands in and the data that it knows."""

    stages: dict[str, importer.Stage]
    stage_name: str | None = None
    data: dict[str, str] = field(default_factory=dict)

    def advance(self, turn: importer.Turn, replied_stage: str | None) -> Expected:
        """Take one turn further; values only ever gather, and a turn of no stage stays where it was.

        A dialogue that begins with no stage is free to choose: it goes on from the `replied_stage`.
        """
        self.stage_name, demanded = self._next_stage(turn, replied_stage)
        stage = self.stages.get(self.stage_name or "")
        if stage is None:
            return Expected(demanded, {}, [])
        fields = {name: value for name, value in turn.data.items() if name in stage.fields}
        self.data |= fields
        missing_fields = [name for name in stage.required if name not in self.data]
        known = {name: value for name, value in self.data.items() if name in stage.fields}
        return Expected(demanded, fields, missing_fields, stage, known)

    def _next_stage(self, turn: importer.Turn, replied_stage: str | None) -> tuple[str | None, str | None]:
        if turn.stage != importer.NO_STAGE:
            return turn.stage, turn.stage
        return (self.stage_name or replied_stage), self.stage_name


def oracle_report(played: Sequence[PlayedTurn]) -> dict[str, Any]:
    """Counts over all turns, and every mismatch as one readable line under `mismatches`."""
    counts = Counter[str]()
    mismatches: list[str] = []
    for one, expected in with_expected(played):
        mismatches += [f"{one.where}: {fault}" for fault in _check(one, expected, counts)]
    return {
        **_answer_counts(played),
        **{name: counts[name] for name in ("stage_equal", "fields_expected", "fields_equal")},
        "missing_fields_equal": counts["missing_fields_equal"],
        "oracle_calls": _call_counts([one.calls for one in played if one.calls is not None]),
        "mismatches": mismatches,
    }


def with_expected(played: Iterable[PlayedTurn]) -> Iterable[tuple[PlayedTurn, Expected]]:
    """Each turn beside what its reply must say; whole dialogues, in their order."""
    course = Course({})
    for one in played:
        if one.number == 1:
            course = Course({stage.stage_name: stage for stage in one.service.stages})
        yield one, course.advance(one.turn, one.stage_name)


def quality_report(played: Sequence[PlayedTurn]) -> dict[str, Any]:
    """Accuracy, precision, recall, F1 and latency over all turns and for each service by its name."""
    services = dict.fromkeys(one.service.service for one in played)
    return {
        "models": sorted({str(one.reply["model"]) for one in played if one.reply.get("model")}),
        "overall": _quality(played),
        "services": {name: _quality([one for one in played if one.service.service == name]) for name in services},
    }


def quality_table(report: dict[str, Any]) -> str:
    """The quality report as a small Markdown table."""
    figures = ("stage_accuracy", "stage_accuracy_all", "precision", "recall", "f1")
    lines = [
        "| service | turns | stage | stage, all turns | precision | recall | F1 | p50 ms | p95 ms |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in [*report["services"].items(), ("all", report["overall"])]:
        ratios = " | ".join("–" if row[figure] is None else f"{row[figure]:.3f}" for figure in figures)
        times = " | ".join("–" if row[time] is None else f"{row[time]:.0f}" for time in ("p50_ms", "p95_ms"))
        lines.append(f"| {name} | {row['turns']} | {ratios} | {times} |")
    return "\n".join(lines)


def percentile(values: Iterable[float], share: float) -> float | None:
    """The smallest value that at least `share` (0–1) of the values do not exceed; None without values."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def _check(one: PlayedTurn, expected: Expected, counts: Counter[str]) -> list[str]:
    """The faults of one turn; counts what was equal."""
    counts["fields_expected"] += len(expected.fields)
    faults = list(one.calls.faults) if one.calls else []
    if one.answer.status != 200:
        return [*faults, f"answered {one.answer.status} {str(one.answer.body)[:200]}"]
    if expected.stage_name in (None, one.stage_name):
        counts["stage_equal"] += 1
    else:
        faults.append(f"stage is {one.stage_name!r} instead of {expected.stage_name!r}")
    for name, value in expected.fields.items():
        if one.data.get(name) == value:
            counts["fields_equal"] += 1
        else:
            faults.append(f"data.{name} is {one.data.get(name)!r} instead of {value!r}")
    missing_fields = one.reply.get("missing_fields")
    if isinstance(missing_fields, list) and sorted(missing_fields) == sorted(expected.missing_fields):
        counts["missing_fields_equal"] += 1
    else:
        faults.append(f"missing_fields is {missing_fields!r} instead of {expected.missing_fields!r}")
    return faults


def _answer_counts(played: Sequence[PlayedTurn]) -> dict[str, int]:
    statuses = [one.answer.status for one in played]
    return {
        "turns": len(played),
        "answers_5xx": sum(status >= 500 for status in statuses),
        "answers_other_than_200": sum(status != 200 and status < 500 for status in statuses),
        "waits_for_rate_limit": sum(one.waits for one in played),
    }


def _call_counts(calls: Sequence[oracle.Calls]) -> dict[str, Any]:
    totals = {kind: sum(one.by_kind[kind] for one in calls) for kind in oracle.KINDS}
    return {
        "total": totals,
        "per_turn": {kind: round(total / len(calls), 3) for kind, total in totals.items()} if calls else {},
        "speculation_missed": sum(max(0, one.by_kind[oracle.DATA_EXTRACTION] - 1) for one in calls),
        "reasked_after_unusable_answer": sum(one.reasked for one in calls),
        "faults": sum(len(one.faults) for one in calls),
    }


def _quality(played: Sequence[PlayedTurn]) -> dict[str, Any]:
    staged = [one for one in played if one.turn.stage != importer.NO_STAGE]
    answered_ms = [one.answer.elapsed_ms for one in played if one.answer.status == 200]
    return {
        **_answer_counts(played),
        "stage_accuracy": _ratio(sum(map(_stage_is_right, staged)), len(staged)),
        "stage_accuracy_all": _ratio(sum(map(_stage_is_right, played)), len(played)),
        **_field_scores(staged),
        "p50_ms": percentile(answered_ms, 0.50),
        "p95_ms": percentile(answered_ms, 0.95),
    }


def _stage_is_right(one: PlayedTurn) -> bool:
    if one.stage_name is None:
        return False
    if one.turn.stage == importer.NO_STAGE:
        return one.stage_before in (None, one.stage_name)
    return one.stage_name == one.turn.stage


def _field_scores(staged: Sequence[PlayedTurn]) -> dict[str, float | int | None]:
    true, found, right = 0, 0, 0
    for one in staged:
        stage = next(stage for stage in one.service.stages if stage.stage_name == one.turn.stage)
        truth, reply = _pairs(one.turn.data, stage), _pairs(one.data, stage)
        true, found, right = true + len(truth), found + len(reply), right + len(truth & reply)
    precision, recall = _ratio(right, found), _ratio(right, true)
    f1 = _ratio(2 * right, true + found)
    return {
        "fields_true": true,
        "fields_found": found,
        "fields_right": right,
        "precision": precision,
        "recall": recall,
        "f1": f1,
    }


def _pairs(data: dict[str, Any], stage: importer.Stage) -> set[tuple[str, str]]:
    """The stage's fields with their values, normalised for comparison."""
    return {
        (name, str(value).strip().casefold())
        for name, value in data.items()
        if name in stage.fields and value is not None
    }


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
