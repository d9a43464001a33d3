"""Requirement check: what the customer has told, and what is still missing."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType
from typing import Any

from nlp import fields, messages
from nlp.llm import Message
from nlp.turn import Turn

KIND = "data_extraction"

_QUOTATION_MARKS = str.maketrans(dict.fromkeys("‘’‚‛′`´", "'") | dict.fromkeys("“”„‟″«»", '"'))


@dataclass(frozen=True)
class _Finding:
    """What one field's answer comes to; `value` is None unless it goes into the data."""

    status: str
    value: Any = None
    fault: str | None = None

    def row(self) -> dict[str, str]:
        return {"status": self.status} | ({} if self.fault is None else {"fault": self.fault})


def prompt(turn: Turn) -> tuple[Message, ...]:
    """The messages for the fields of the turn's stage."""
    context = {
        "business": messages.business(turn.business),
        "stage": messages.stage_with_examples(turn.stage_or_best),
    }
    return messages.build(KIND, turn, context, {"data": turn.data})


def answer_schema(turn: Turn) -> dict[str, Any]:
    """A property per field: its value, or null, with the customer's words that say it."""
    properties = fields.reduce(turn.output_schema)
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def sorted_out(turn: Turn, misfit: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The fields that are as they should be in an answer that does not fit its schema; what is wrong with others."""
    right: dict[str, Any] = {}
    wrong: dict[str, str] = {}
    for name, schema in fields.reduce(turn.output_schema).items():
        found = misfit.get(name)
        if found is None:
            continue
        if not isinstance(found, dict):
            wrong[name] = "no object of value and quote"
            continue
        value, quote = found.get("value"), found.get("quote")
        fault = fields.schema_fault(schema["properties"]["value"], value)
        if fault is None:
            right[name] = {"value": value, "quote": quote if isinstance(quote, str) else None}
        else:
            wrong[name] = fault
    return right, wrong


def apply(turn: Turn, answer: dict[str, Any] | None, wrong: Mapping[str, str] = MappingProxyType({})) -> Turn:
    """The turn with valid values merged; without an answer its data stays. `verdict` has each field's status; `wrong`
    are fields that were answered, but not as they should be."""
    names = turn.output_schema.get("properties", {}) if answer is not None else {}
    transcript = _Transcript(turn)
    findings = {name: _judge(turn, name, (answer or {}).get(name) or {}, transcript) for name in names}
    findings |= {name: _Finding("invalid", fault=fault) for name, fault in wrong.items()}
    merged = {name: found.value for name, found in findings.items() if found.value is not None}
    data = {**turn.data, **merged}
    return turn.changed(
        data=data,
        missing_fields=fields.missing(turn.output_schema, data, checked=merged),
        verdict={name: found.row() for name, found in findings.items()},
    )


def overtaken(turn: Turn, answer: Any, verdict: Any) -> set[str]:
    """Fields that had no other value when this was answered and have one now: it was told in a turn that came between,
    and the newer word stays."""
    told = verdict if isinstance(verdict, dict) else {}
    kept = {name for name, found in told.items() if found in ({"status": "given"}, {"status": "inferred"})}
    values = {name: fields.pruned(turn.output_schema, name, answer[name]["value"]) for name in kept & {*(answer or ())}}
    known = {name: turn.data[name] for name in values if turn.data.get(name) is not None}
    return {name for name, value in known.items() if not _same(value, values[name])}


def _judge(turn: Turn, name: str, found: Mapping[str, Any], transcript: _Transcript) -> _Finding:
    value = fields.pruned(turn.output_schema, name, found.get("value"))
    if value is None or (isinstance(value, str) and not value.strip()):
        return _Finding("missing")
    fault = fields.fault(turn.output_schema, name, value)
    if fault is not None:
        return _Finding("invalid", fault=fault)
    earlier = turn.data.get(name)
    is_quoted = transcript.has(found.get("quote") or "")
    if not is_quoted and turn.stage_or_best.data_extraction.get("require_quote") and not _same(value, earlier):
        return _Finding("inferred", fault="no quote from the conversation; not taken over")
    if earlier is not None and not _same(value, earlier):
        return _Finding("corrected", value)
    return _Finding("given" if is_quoted else "inferred", value)


class _Transcript:
    """What was said, the newest first, for that is nearly always what is quoted; made plain as far as it is read."""

    def __init__(self, turn: Turn) -> None:
        self._rest = chain([turn.message], (said.message_content for said in reversed(turn.history)))
        self._plain: list[str] = []

    def has(self, quote: str) -> bool:
        """Whether the words were said; no words never were."""
        words = _plain(quote)
        return bool(words) and any(words in text for text in self._texts())

    def _texts(self) -> Iterator[str]:
        yield from self._plain
        for text in self._rest:
            self._plain.append(_plain(text))
            yield self._plain[-1]


def _plain(text: str) -> str:
    """A text without what differs between a message and its quotation: form, case, spaces and quotation marks."""
    same_marks = text.translate(_QUOTATION_MARKS)
    return " ".join(unicodedata.normalize("NFKC", same_marks).casefold().split())


def _same(value: Any, other: Any) -> bool:
    # As JSON: in Python True equals 1.
    return json.dumps(value, sort_keys=True) == json.dumps(other, sort_keys=True)
