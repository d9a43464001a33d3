"""One field of a data_extraction schema as the offline model understands it: its kind, limits and cue words."""

import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import re2

from nlp import similarity
from nlp.offline import formats, reader

_HINT = re.compile(r" \((pattern|format|minimum|maximum|minLength|maxLength): (.*)\)$", re.DOTALL)
_HINT_NAMES = ("pattern", "format", "minimum", "maximum", "minLength", "maxLength")
_KIND_WORDS = (
    ("email", "email mail"),
    ("phone", "phone telephone mobile fax"),
    ("date", "date day birthday"),
    ("time", "time hour clock"),
    ("money", "amount price budget cost fee sum"),
    ("number", "count quantity size passenger adult guest child children people person night seat ticket"),
    (
        "place",
        "city town village country state location place where destination origin airport station region",
    ),
    ("person", "recipient person who whom artist author contact"),
    ("identifier", "id code reference identifier serial number sku"),
    (
        "narrative",
        "problem issue complaint reason detail comment feedback message happened question request note"
        " information info summary concern wrong describe why",
    ),
)
_START_WORDS = "start starting origin departure depart begin beginning pickup outbound leave leaving"
_END_WORDS = "end ending destination return until arrival drop dropoff recipient inbound till"
_VAGUE = "name number type kind id is has the whether flag boolean indicate indicating of or and user customer"
_TRUTHS = {"true": True, "yes": True, "false": False, "no": False}


def _stems(text: str) -> frozenset[str]:
    return frozenset(map(similarity.stem, similarity.words(text)))


_KINDS = tuple((kind, _stems(text)) for kind, text in _KIND_WORDS)
_START, _END, _VAGUE_STEMS = _stems(_START_WORDS), _stems(_END_WORDS), _stems(_VAGUE)
# In a description these are mere grammar ("the city in which …"); in a name they tell the direction.
_START_IN_NAME, _END_IN_NAME = _START | {"from", "in"}, _END | {"to", "out"}


@dataclass(frozen=True)
class Property:
    """A field to extract; `description` is free of the limits that the platform writes at its end."""

    name: str
    description: str
    schema: Mapping[str, Any]
    limits: Mapping[str, str]
    types: tuple[str, ...]
    choices: tuple[Any, ...]
    kind: str
    cues: frozenset[str]
    direction: str

    def admits(self, value: object) -> bool:
        """Whether a value keeps to the limits of the field, as far as they can be checked here."""
        text_limits = self._within(len(value), "minLength", "maxLength") if isinstance(value, str) else True
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        number_limits = self._within(float(str(value)), "minimum", "maximum") if is_number else True
        return text_limits and number_limits and (not isinstance(value, str) or self.matches(value))

    def matches(self, text: str) -> bool:
        """Whether a text matches the tenant's pattern; true when there is none that can be used."""
        pattern = compiled(self.limits.get("pattern", ""))
        return pattern is None or bool(pattern.search(text))

    @property
    def is_selective(self) -> bool:
        """Whether the pattern tells values from ordinary words."""
        pattern = compiled(self.limits.get("pattern", ""))
        return pattern is not None and not any(pattern.search(word) for word in ("the", "Hello", "where"))

    @property
    def truths(self) -> dict[bool, Any]:
        """The field's values for true and false; empty when it is no yes-or-no field."""
        if "boolean" in self.types:
            return {True: True, False: False}
        named = {_TRUTHS[str(value).casefold()]: value for value in self.choices if str(value).casefold() in _TRUTHS}
        return named if len(named) == 2 else {}

    def is_named_by(self, cues: frozenset[str], words: Sequence[str]) -> bool:
        """Whether cue words stand among these words; "out" of check_out only right after "check"."""
        stems = list(map(similarity.stem, words))
        name = list(map(similarity.stem, similarity.words(self.name)))
        for cue in cues:
            if cue not in similarity.STOP_WORDS:
                if cue in stems:
                    return True
            elif cue in name[1:] and [name[name.index(cue, 1) - 1], cue] in map(list, pairwise(stems)):
                return True
        return False

    def _within(self, size: float, low: str, high: str) -> bool:
        return _number(self.limits.get(low), -math.inf) <= size <= _number(self.limits.get(high), math.inf)


@functools.lru_cache(maxsize=1024)
def compiled(pattern: str) -> Any:
    """A tenant's pattern, compiled for linear time; None when it is empty or RE2 can't run it."""
    if not pattern:
        return None
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except (re2.error, UnicodeError):
        return None


def understand(name: str, value_schema: Mapping[str, Any], description: str) -> Property:
    """The field behind a value schema; the description is used when the schema has none of its own."""
    own = reader.text_of(value_schema, "description")
    plain, limits = split_hints(own or description)
    if own and description:
        outer, outer_limits = split_hints(description)
        plain, limits = plain or outer, {**outer_limits, **limits}
    types = _types(value_schema)
    choices = value_schema.get("enum")
    return Property(
        name=name,
        description=plain,
        schema=value_schema,
        limits=limits,
        types=types,
        choices=tuple(choice for choice in choices if choice is not None) if isinstance(choices, list) else (),
        kind=_kind(name, plain, limits.get("format", ""), types),
        cues=_stems(name) - _VAGUE_STEMS,
        direction=_direction(_stems(name), _START_IN_NAME, _END_IN_NAME) or _direction(_stems(plain), _START, _END),
    )


def split_hints(description: str) -> tuple[str, dict[str, str]]:
    """The description and the limits at its end: ` (pattern: …)`, ` (format: …)` and so on, in that order."""
    limits: dict[str, str] = {}
    rest = f" {description.strip()}"
    for name in reversed(_HINT_NAMES):
        start = rest.rfind(f" ({name}: ") if name != "pattern" else rest.find(f" ({name}: ")
        match = _HINT.fullmatch(rest, start) if start >= 0 and rest.endswith(")") else None
        if match:
            limits[name] = match.group(2)
            rest = rest[:start]
    return rest.strip(), limits


def _types(schema: Mapping[str, Any]) -> tuple[str, ...]:
    named = schema.get("type")
    listed = named if isinstance(named, list) else [named]
    return tuple(entry for entry in listed if isinstance(entry, str) and entry != "null")


def _kind(name: str, description: str, format_name: str, types: tuple[str, ...]) -> str:
    if format_name in {*formats.CHECKS, "date", "time", "date-time"}:
        return format_name
    if types and set(types) <= {"integer", "number"}:
        return "money" if _stems(name) & dict(_KINDS)["money"] else "number"
    words = similarity.words(name)
    return _kind_of_words(words[::-1]) or _kind_of_words(similarity.words(description)[:6])


def _kind_of_words(words: list[str]) -> str:
    """The kind that the first telling word names: a name's words come reversed, its noun stands last."""
    stems = list(map(similarity.stem, words))
    for kind in ("email", "phone"):
        if dict(_KINDS)[kind] & set(stems):
            return kind
    if "number" in words and "of" in words:
        return "number"
    if "name" in words[:2]:
        return "name"
    return next((kind for stem in stems for kind, known in _KINDS if stem in known), "")


def _direction(stems: frozenset[str], start: frozenset[str], end: frozenset[str]) -> str:
    starts, ends = bool(stems & start), bool(stems & end)
    if starts == ends:
        return ""
    return "start" if starts else "end"


def _number(text: str | None, default: float) -> float:
    try:
        return float(text) if text is not None else default
    except ValueError:
        return default
