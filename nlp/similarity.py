"""How well a sentence fits named texts: a cheap local score that needs no model."""

import functools
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


def word_set(text: str) -> frozenset[str]:
    """The words of a text that lists them with spaces between."""
    return frozenset(text.split())


STOP_WORDS = word_set(
    "a about all am an and any are as at be been but by can could did do does for from get give go had has have he"
    " her hi him his i if in into is it its just let like ll me might my need of on or our out please re s she"
    " should so some t than that the their them then there these they this those to up us ve very want was we"
    " were what when where which who will with would you your yes no not ok okay customer user"
    " everyone everybody someone somebody anyone anybody something anything nothing everything"
)
SUFFIXES = ("ations", "ation", "ments", "ment", "ings", "ing", "ions", "ion", "ed", "ly", "y", "e")
SYNONYMS = {
    **dict.fromkeys(("search", "look", "seek"), "find"),
    **dict.fromkeys(("packag", "shipment"), "parcel"),
    "purchas": "buy",
    **dict.fromkeys(("booking", "bookings", "booked"), "reserv"),
}
MAX_TERMS = 400
NAME_WEIGHT, TEXT_WEIGHT, EXAMPLE_WEIGHT = 1.0, 0.8, 0.6
TYPO_WEIGHT = 0.7

# Vowel signs of many scripts are marks, not letters: splitting there would tear their words apart.
_MARKS = "".join(chr(code) for code in range(0x300, 0x1E00) if unicodedata.category(chr(code))[0] == "M")
_WORD = re.compile(rf"[^\W\d_][{_MARKS}]*(?:[^\W\d_][{_MARKS}]*)*|\d+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_ACCENTS = re.compile("[\u0300-\u036f]")
_SPEAKER = re.compile(r"\s*(customer|user|client|caller)\s*:\s*(.*)", re.IGNORECASE)


class Candidate(NamedTuple):
    """Something a message may be about; `examples` has lines such as "Customer: …" and "Assistant: …"."""

    name: str
    text: str
    examples: str


@dataclass(frozen=True)
class _Profile:
    weights: dict[str, float]
    lines: tuple[frozenset[str], ...]


@dataclass(frozen=True)
class _Index:
    """Candidates by term: (position, weight) of each, and the numbers of their lines; of a line its candidate's
    position and the sum of its terms' rarity."""

    weights: dict[str, list[tuple[int, float]]]
    line_numbers: dict[str, list[int]]
    lines: tuple[tuple[int, float], ...]
    rarity: dict[str, float]
    terms_by_gram: dict[str, list[str]]
    unknown_rarity: float


def words(text: str) -> list[str]:
    """The words and numbers of a text, without case, accents or the seams of camelCase and snake_case."""
    plain = unicodedata.normalize("NFKD", _CAMEL.sub(" ", text))
    return _WORD.findall(unicodedata.normalize("NFC", _ACCENTS.sub("", plain)).casefold())


def stem(word: str) -> str:
    """A light English stem: plural and the commonest endings off, a few synonyms made one."""
    if len(word) < 4 or word in SYNONYMS:
        return SYNONYMS.get(word, word)
    if word.endswith("ies") and len(word) > 4:
        word = word[:-3] + "y"
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for suffix in SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            word = word[: -len(suffix)]
            break
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz":
        word = word[:-1]
    return SYNONYMS.get(word, word)


def terms(text: str) -> list[str]:
    """Distinct stems in order of appearance, stop words left out unless there is nothing else."""
    every = words(text)
    chosen = [word for word in every if word not in STOP_WORDS] or every
    return list(dict.fromkeys(map(stem, chosen)))[:MAX_TERMS]


def customer_lines(examples: str) -> list[str]:
    """What the customers say in example conversations."""
    spoken = (_SPEAKER.fullmatch(line) for line in examples.splitlines())
    return [match.group(2) for match in spoken if match and match.group(2)]


def rank(message: str, candidates: Sequence[Candidate]) -> list[tuple[str, float]]:
    """Every candidate's name with its score in [0, 1], best first; ties keep the order given."""
    index = _index(tuple(candidates))
    scores = _scores(_weighed(terms(message), index), index, len(candidates))
    order = sorted(range(len(scores)), key=lambda position: -scores[position])
    return [(candidates[position].name, scores[position]) for position in order]


def _scores(asked: list[tuple[str, float, float]], index: _Index, candidates: int) -> list[float]:
    total = sum(weight for _, weight, _ in asked)
    overlaps, likest = [0.0] * candidates, [0.0] * candidates
    shared = [0.0] * len(index.lines)
    for term, weight, trust in asked:
        for position, share in index.weights.get(term, ()):
            overlaps[position] += weight * trust * share
        for number in index.line_numbers.get(term, ()):
            shared[number] += weight * trust
    for (position, rarity), common in zip(index.lines, shared, strict=True):
        if common:
            likest[position] = max(likest[position], min(1.0, 2.0 * common / (total + rarity)))
    return [
        1.0 - (1.0 - 0.8 * (overlap / total)) * (1.0 - 0.9 * line * line) if total else 0.0
        for overlap, line in zip(overlaps, likest, strict=True)
    ]


def _weighed(message_terms: list[str], index: _Index) -> list[tuple[str, float, float]]:
    """(known term, its rarity, trust in the match) for each term of the message."""
    weighed = []
    for term in message_terms:
        if term in index.rarity:
            weighed.append((term, index.rarity[term], 1.0))
        else:
            close = _closest(term, index)
            rarity = index.rarity[close] if close else index.unknown_rarity
            weighed.append((close or term, rarity, TYPO_WEIGHT))
    return weighed


def _closest(term: str, index: _Index) -> str | None:
    """The known term that shares most letter triples with a mistyped or otherwise inflected one."""
    if len(term) < 5 or term.isdigit():
        return None
    grams = _grams(term)
    shared = Counter(known for gram in grams for known in index.terms_by_gram.get(gram, ()))
    best, best_likeness = None, 0.55
    for known, count in shared.items():
        likeness = 2.0 * count / (len(grams) + len(_grams(known)))
        if likeness > best_likeness:
            best, best_likeness = known, likeness
    return best


@functools.lru_cache(maxsize=16384)
def _grams(term: str) -> frozenset[str]:
    padded = f"^{term}$"
    return frozenset(padded[start : start + 3] for start in range(len(padded) - 2))


@functools.lru_cache(maxsize=2048)
def _profile(candidate: Candidate) -> _Profile:
    lines = tuple(frozenset(terms(line)) for line in customer_lines(candidate.examples))
    weights: dict[str, float] = {}
    for line in lines:
        weights.update(dict.fromkeys(line, EXAMPLE_WEIGHT))
    weights.update(dict.fromkeys(terms(candidate.text), TEXT_WEIGHT))
    weights.update(dict.fromkeys(terms(candidate.name), NAME_WEIGHT))
    return _Profile(weights, lines)


@functools.lru_cache(maxsize=64)
def _index(candidates: tuple[Candidate, ...]) -> _Index:
    profiles = tuple(map(_profile, candidates))
    spread = Counter(term for profile in profiles for term in profile.weights)
    rarity = {term: math.log(1.0 + len(profiles) / count) for term, count in spread.items()}
    weights: dict[str, list[tuple[int, float]]] = {}
    line_numbers: dict[str, list[int]] = {}
    lines: list[tuple[int, float]] = []
    for position, profile in enumerate(profiles):
        for term, weight in profile.weights.items():
            weights.setdefault(term, []).append((position, weight))
        for line in profile.lines:
            for term in line:
                line_numbers.setdefault(term, []).append(len(lines))
            lines.append((position, sum(rarity[term] for term in line)))
    unknown_rarity = 0.5 * math.log(2.0 + len(profiles))
    return _Index(weights, line_numbers, tuple(lines), rarity, _by_gram(spread), unknown_rarity)


def _by_gram(known: Iterable[str]) -> dict[str, list[str]]:
    terms_by_gram: dict[str, list[str]] = {}
    for term in known:
        for gram in _grams(term) if len(term) >= 4 else ():
            terms_by_gram.setdefault(gram, []).append(term)
    return terms_by_gram
