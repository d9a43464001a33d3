"""Reply lines that a tenant's example conversations offer, with their placeholders filled."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nlp import similarity
from nlp.offline import manners, reader

ALIKE = 0.2
_SPEAKER = re.compile(r"\s*(?P<who>customer|user|client|caller|assistant|agent|ai|bot|staff)\s*:\s*(?P<text>.*)", re.I)
_ASSISTANTS = frozenset({"assistant", "agent", "ai", "bot", "staff"})
_PLACEHOLDER = re.compile(r"\{\{?\s*([\w.]{1,64})\s*\}?\}|<([A-Za-z_][\w.]{0,63})>|\[([a-z_][a-z0-9_.]{0,63})\]")
_FIGURES = re.compile(r"\d+")


def reply_line(reading: reader.Reading, known: Mapping[str, Any], wanted: Sequence[str] = ()) -> str:
    """The assistant's line after the customer line most like the message, "" when none can be used.

    A line can be used when every placeholder has a value in `known`, one of `wanted` when any are named, when
    it states no figure that nobody gave, asks for nothing already known, and was not just said.
    """
    pairs = list(_pairs(reader.text_of(reading.stage, "example_conversations")))
    candidates = [similarity.Candidate(str(at), asked, "") for at, (asked, _) in enumerate(pairs)]
    for name, score in similarity.rank(manners.without_manners(reading.message), candidates):
        line = pairs[int(name)][1]
        # A line that tells this customer's own values fits better than its likeness shows.
        fits = score >= ALIKE or bool(wanted) or (score > 0.0 and bool(_placeholders(line)))
        if fits and set(wanted) <= _placeholders(line):
            filled = _filled(line, known)
            if filled and _is_usable(filled, line, reading, known):
                return filled
    return ""


def row_line(reading: reader.Reading, known: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """A line that tells at least one value of a looked-up row."""
    lines = (reply_line(reading, {**known, **row}, [name]) for name in row if row[name] is not None)
    return next(filter(None, lines), "")


def said(value: object) -> str:
    """A value as a person would write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(said, value[:5]))
    if isinstance(value, dict):
        return ", ".join(f"{spaced(str(name))} {said(part)}" for name, part in value.items() if part is not None)
    return str(value)


def spaced(name: str) -> str:
    """`order_number` or `orderNumber` as words."""
    return " ".join(similarity.words(name)) or name


def _pairs(examples: str) -> Iterator[tuple[str, str]]:
    asked = ""
    for line in examples.splitlines():
        match = _SPEAKER.fullmatch(line)
        if match and match["who"].lower() not in _ASSISTANTS:
            asked = match["text"]
        elif match and match["text"] and asked:
            yield asked, match["text"]


def _placeholders(line: str) -> set[str]:
    return {_name(match) for match in _PLACEHOLDER.finditer(line)}


def _name(match: re.Match[str]) -> str:
    return str(match[1] or match[2] or match[3]).rpartition(".")[2]


def _filled(line: str, known: Mapping[str, Any]) -> str:
    if any(known.get(name) is None for name in _placeholders(line)):
        return ""
    return _PLACEHOLDER.sub(lambda match: said(known[_name(match)]), line)


def _is_usable(filled: str, line: str, reading: reader.Reading, known: Mapping[str, Any]) -> bool:
    given = set(_FIGURES.findall(f"{reading.message} {said(dict(known))}"))
    invents = any(number not in given for number in _FIGURES.findall(line))
    recent = [text for role, text in reading.history[-4:] if role == "assistant"]
    return not invents and filled not in recent and not _asks_for_known(filled, reading)


def _asks_for_known(line: str, reading: reader.Reading) -> bool:
    asked = set(similarity.terms(manners.questions(line)))
    fields = reader.section(reading.context, "fields")
    known = [name for name in fields if reading.data.get(name) is not None]
    return any(asked & set(similarity.terms(name)) for name in known)
