"""Requirement check of the offline model: field values and quotes out of the customer's own words."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nlp import similarity
from nlp.offline import clues, findings, manners, properties, reader

BELIEVED, BELIEVED_FROM_EARLIER = 0.5, 0.6
EARLIER_MESSAGES = 5
NOTHING: dict[str, Any] = {"value": None, "quote": None}
_INTERROGATIVES = (
    ("when", {"date", "time"}),
    ("what time", {"time"}),
    ("what date", {"date"}),
    ("which date", {"date"}),
    ("where", {"place"}),
    ("whom", {"person", "name"}),
    ("who", {"person", "name"}),
    ("how many", {"number"}),
    ("how much", {"money"}),
)


def extract(reading: reader.Reading, schema: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a data_extraction call: a value with its quote, or two nulls, for every property."""
    fields = _fields(schema)
    answer = {field.name: NOTHING for field in fields}
    known = {str(value).casefold() for value in reading.data.values()}
    for age, utterance in enumerate(reading.utterances()[: 1 + EARLIER_MESSAGES]):
        # What was said before counts only where nothing is known yet, and not twice: it must not undo a correction.
        open_fields = [
            field
            for field in fields
            if answer[field.name] is NOTHING and (age == 0 or reading.data.get(field.name) is None)
        ]
        believed = BELIEVED_FROM_EARLIER if age else BELIEVED
        heard = _heard(utterance, open_fields, fields, believed, told_now=age == 0)
        answer |= {name: pair for name, pair in heard.items() if age == 0 or str(pair["value"]).casefold() not in known}
    return answer


def _fields(schema: Mapping[str, Any]) -> list[properties.Property]:
    fields = []
    for name, pair in reader.section(schema, "properties").items():
        pair_schema = pair if isinstance(pair, dict) else {}
        value = reader.section(reader.section(pair_schema, "properties"), "value")
        description = reader.text_of(pair_schema, "description")
        fields.append(properties.understand(name, value, description))
    return fields


def _heard(
    utterance: reader.Utterance,
    open_fields: Sequence[properties.Property],
    fields: Sequence[properties.Property],
    believed: float,
    *,
    told_now: bool,
) -> dict[str, Any]:
    words = findings.Words(utterance.text)
    asked = asked_for(utterance.prompted_by, fields)
    found: list[tuple[str, findings.Evidence]] = []
    compound: dict[str, Any] = {}
    for field in open_fields:
        if field.kind == "narrative" and not told_now:
            continue
        cues = _own_cues(field, fields)
        for form in _forms(field):
            if {"array", "object"} & set(form.types):
                compound |= _compound(form, words, form.name in asked, believed)
            else:
                found += [(field.name, one) for one in clues.gather(form, words, field.name in asked, cues)]
    return compound | _assigned([pair for pair in found if pair[1].strength >= believed + _doubt(pair, fields, asked)])


def _doubt(
    pair: tuple[str, findings.Evidence],
    fields: Sequence[properties.Property],
    asked: frozenset[str],
) -> float:
    """What a field such as recipient_account_type needs on top, since account_type may be meant as well."""
    field = next(field for field in fields if field.name == pair[0])
    is_narrower = any(peer.cues < field.cues for peer in _peers(field, fields))
    return clues.CUED if is_narrower and field.name not in asked else 0.0


def asked_for(reply: str, fields: Sequence[properties.Property]) -> frozenset[str]:
    """The names of the fields that the assistant's reply asked for."""
    questions = manners.questions(reply)
    if not questions:
        return frozenset()
    candidates = [similarity.Candidate(field.name, field.description, "") for field in fields]
    ranked = similarity.rank(questions, candidates)
    limit = max(0.15, 0.5 * ranked[0][1]) if ranked else 1.0
    named = {name for name, score in ranked if score >= limit}
    spoken = f" {' '.join(manners.spoken_words(questions))} "
    kinds = {kind for phrase, meant in _INTERROGATIVES if f" {phrase} " in spoken for kind in meant}
    named |= {field.name for field in fields if field.kind in kinds}
    return frozenset(field.name for field in fields if field.name in named and not _is_outdone(field, fields, spoken))


def _is_outdone(field: properties.Property, fields: Sequence[properties.Property], question: str) -> bool:
    """Whether the question names a field of the same kind by its own words, and not this one."""
    spoken = similarity.words(question)
    if field.is_named_by(_own_cues(field, fields), spoken):
        return False
    return any(peer.is_named_by(_own_cues(peer, fields), spoken) for peer in _peers(field, fields))


def _own_cues(field: properties.Property, fields: Iterable[properties.Property]) -> frozenset[str]:
    """The words of its name that tell a field from the others of its kind."""
    return field.cues.difference(*(peer.cues for peer in _peers(field, fields)))


def _peers(field: properties.Property, fields: Iterable[properties.Property]) -> list[properties.Property]:
    return [
        other
        for other in fields
        if other.name != field.name and (other.kind, other.choices) == (field.kind, field.choices)
    ]


def _forms(field: properties.Property) -> list[properties.Property]:
    """The field itself, or one form of it for each schema of its `anyOf`."""
    alternatives = field.schema.get("anyOf")
    if not isinstance(alternatives, list):
        return [field]
    return [
        properties.understand(field.name, alternative, field.description)
        for alternative in alternatives
        if isinstance(alternative, dict) and alternative.get("type") != "null"
    ]


def _assigned(found: Sequence[tuple[str, findings.Evidence]]) -> dict[str, Any]:
    """Strongest evidence first, no field twice and no words for two fields."""
    answer: dict[str, Any] = {}
    taken: list[findings.Span] = []
    for name, evidence in sorted(found, key=lambda pair: -pair[1].strength):
        span = evidence.span
        is_free = all(span.end <= other.start or other.end <= span.start for other in taken)
        if name not in answer and is_free and evidence.value is not None:
            answer[name] = {"value": evidence.value, "quote": span.text}
            taken.append(span)
    return answer


def _compound(field: properties.Property, words: findings.Words, asked: bool, believed: float) -> dict[str, Any]:
    """A list of every item found, or an object with the properties found; the quote spans their words."""
    finder = _items if "array" in field.types else _object
    value, spans = finder(field, words, asked, believed)
    if not spans:
        return {}
    quote = words.text[min(span.start for span in spans) : max(span.end for span in spans)]
    return {field.name: {"value": value, "quote": quote}}


def _items(
    field: properties.Property, words: findings.Words, asked: bool, believed: float
) -> tuple[Any, list[findings.Span]]:
    schema = reader.section(field.schema, "items")
    item = properties.understand(field.name, schema, field.description)
    evidence = clues.gather(item, words, asked, item.cues)
    chosen: list[findings.Evidence] = []
    for one in sorted(evidence, key=lambda one: -one.strength):
        apart = all(one.span.end <= other.span.start or other.span.end <= one.span.start for other in chosen)
        if one.strength >= believed and apart and one.value is not None:
            chosen.append(one)
    chosen.sort(key=lambda one: one.span.start)
    distinct = {json.dumps(one.value): one.value for one in chosen}
    return list(distinct.values()), [one.span for one in chosen]


def _object(
    field: properties.Property, words: findings.Words, asked: bool, believed: float
) -> tuple[Any, list[findings.Span]]:
    schemas = reader.section(field.schema, "properties")
    parts = [
        properties.understand(name, part, reader.text_of(part, "description"))
        for name, part in schemas.items()
        if isinstance(part, dict)
    ]
    found = [
        (part.name, one)
        for part in parts
        for one in clues.gather(part, words, asked, _own_cues(part, parts))
        if one.strength >= believed
    ]
    answer = _assigned(found)
    spans = [one.span for name, one in found if name in answer and answer[name]["quote"] == one.span.text]
    return {part.name: answer.get(part.name, NOTHING)["value"] for part in parts}, spans
