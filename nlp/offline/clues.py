"""Which words of a customer's message may be the value of a field, and how much speaks for each."""

import re
from collections.abc import Iterator

from nlp import similarity
from nlp.offline import findings, formats, manners, properties, wording

ASKED, CUED, DIRECTED = 0.35, 0.25, 0.25
_SINCE = similarity.word_set("from starting beginning since")
_UNTIL = similarity.word_set("to until till through returning back")
_PEOPLE = similarity.word_set("people person persons adults guests us passengers travelers travellers friends party")
_COUNTED = frozenset(
    map(similarity.stem, similarity.words("party people person adult guest passenger traveler attendee"))
)
_INSTEAD = re.compile(
    r"\b(?:not|instead of|rather than|no longer)(?: (?:in|at|on|for|to|from|the))?\s*$", re.IGNORECASE
)
_INDIFFERENT = frozenset({"dontcare", "any", "anything", "nopreference", "either", "whatever"})


def gather(
    field: properties.Property, words: findings.Words, asked: bool, own_cues: frozenset[str]
) -> list[findings.Evidence]:
    """Everything in a message that may be the field's value; `own_cues` tell it from fields of its kind."""
    found = list(_raw(field, words, asked))
    weighed = [
        findings.Evidence(one.span, one.value, one.strength + _support(field, words, one.span, asked, own_cues))
        for one in found
        if not _INSTEAD.search(words.text[max(0, one.span.start - 24) : one.span.start])
    ]
    return [one for one in weighed if field.admits(one.value)]


def _raw(field: properties.Property, words: findings.Words, asked: bool) -> Iterator[findings.Evidence]:
    if field.truths:
        yield from _truth(field, words, asked)
    elif field.choices:
        yield from _chosen(field, words, asked)
    elif field.types and set(field.types) <= {"integer", "number"}:
        yield from _numeric(field, words)
    elif "string" in field.types or not field.types:
        yield from _textual(field, words, asked)


def _support(
    field: properties.Property,
    words: findings.Words,
    span: findings.Span,
    asked: bool,
    own_cues: frozenset[str],
) -> float:
    """What the neighbourhood adds: the question asked, cue words, from/to before the value."""
    before = similarity.words(words.text[max(0, span.start - 60) : span.start])[-5:]
    after = similarity.words(words.text[span.end : span.end + 24])[:2]
    support = ASKED if asked else 0.0
    if field.is_named_by(own_cues, before) or field.is_named_by(own_cues, after):
        support += CUED
    lead = next((word for word in reversed(before) if word not in {"the", "a", "my", "on"}), "")
    starts, ends = (_SINCE, _UNTIL) if field.kind in {"date", "time"} else (wording.FROM, wording.TO)
    if field.direction and lead in starts | ends:
        support += DIRECTED if (lead in starts) == (field.direction == "start") else -0.4
    # Of two dates or places without a hint, people say where it starts first.
    return support + (0.02 if field.direction == "start" else 0.0)


def _truth(field: properties.Property, words: findings.Words, asked: bool) -> Iterator[findings.Evidence]:
    text = words.text
    opening = manners.spoken_words(text[:80])[:2]
    if asked and opening and opening[0] in (manners.YES | manners.NO) and len(text) <= 120:
        end = len(words.tokens[0].text) + words.tokens[0].start
        span = findings.Span(words.tokens[0].start, end, words.tokens[0].text, None)
        yield findings.Evidence(span, field.truths[opening[0] in manners.YES], 0.4)
    features = field.cues - {similarity.stem(word) for word in ("has", "is", "serves", "service", "wants", "allows")}
    for sentence in manners.sentences(text[:4000]) if features else ():
        present = {similarity.stem(word) for word in similarity.words(sentence)}
        if features <= present and not manners.is_question(sentence):
            start = text.find(sentence)
            negated = set(manners.spoken_words(sentence)) & (manners.NO | {"without"})
            span = findings.Span(start, start + len(sentence), sentence, None)
            yield findings.Evidence(span, field.truths[not negated], 0.55)


def _chosen(field: properties.Property, words: findings.Words, asked: bool) -> Iterator[findings.Evidence]:
    shared = [word for choice in field.choices for word in set(map(findings.singular, similarity.words(str(choice))))]
    for choice in field.choices:
        wanted = tuple(map(findings.singular, similarity.words(str(choice))))
        if "".join(wanted) in _INDIFFERENT or similarity.words(str(choice)) == []:
            continue
        if all(part.isdigit() for part in wanted):
            yield from _counted(field, words, choice)
            continue
        yield from _occurrences(words.text, words.singulars, wanted, choice, 0.6 + 0.05 * len(wanted))
        for part in wanted if len(wanted) > 1 else ():
            if len(part) > 2 and shared.count(part) == 1 and part not in similarity.STOP_WORDS:
                capitalised = [pair for pair in words.singulars if pair[1].text[:1].isupper() or asked]
                yield from _occurrences(words.text, capitalised, (part,), choice, 0.5 if part != "first" else 0.1)
    yield from _indifferent(field, words, asked)


def _occurrences(
    text: str,
    flat: list[tuple[str, findings.Span]],
    wanted: tuple[str, ...],
    choice: object,
    strength: float,
) -> Iterator[findings.Evidence]:
    found = 0
    for at in range(len(flat) - len(wanted) + 1):
        if flat[at][0] == wanted[0] and tuple(stem for stem, _ in flat[at : at + len(wanted)]) == wanted:
            start, end = flat[at][1].start, flat[at + len(wanted) - 1][1].end
            yield findings.Evidence(findings.Span(start, end, text[start:end], choice), choice, strength)
            found += 1
            if found == findings.MOST_SPANS:
                return


def _indifferent(field: properties.Property, words: findings.Words, asked: bool) -> Iterator[findings.Evidence]:
    """ "Doesn't matter", for a field whose choices have a value for that."""
    match = wording.NO_PREFERENCE.search(words.text) if asked else None
    for choice in field.choices if match else ():
        if match and "".join(similarity.words(str(choice))) in _INDIFFERENT:
            yield findings.Evidence(findings.Span(match.start(), match.end(), match.group(), choice), choice, 0.3)


def _counted(field: properties.Property, words: findings.Words, choice: object) -> Iterator[findings.Evidence]:
    for one in _numeric(field, words):
        if str(one.value) == str(choice):
            yield findings.Evidence(one.span, choice, one.strength)


def _numeric(field: properties.Property, words: findings.Words) -> Iterator[findings.Evidence]:
    if field.kind == "money" or "money" in field.cues:
        for span in words.money:
            yield findings.Evidence(span, _as_number(field, span.value), 0.6)
    for span in words.numbers:
        following = similarity.words(words.text[span.end : span.end + 30])[:2]
        before = similarity.words(words.text[max(0, span.start - 20) : span.start])[-2:]
        strength = 0.25 + (0.35 if _counts_the_field(field, before, following) else 0.0)
        if field.kind == "money" and before[-1:] and before[-1] in {"pay", "send", "transfer", "amount", "price"}:
            strength += 0.3
        yield findings.Evidence(span, _as_number(field, span.value), strength)


def _counts_the_field(field: properties.Property, before: list[str], following: list[str]) -> bool:
    counted = field.cues | set(similarity.terms(field.description))
    if counted & set(map(similarity.stem, following[:1])) or field.cues & set(map(similarity.stem, following)):
        return True
    of_people = bool(field.cues & _COUNTED)
    return of_people and (bool(_PEOPLE & set(following)) or before[-2:] in (["party", "of"], ["table", "for"]))


def _as_number(field: properties.Property, value: object) -> object:
    if "integer" in field.types and isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value


def _textual(field: properties.Property, words: findings.Words, asked: bool) -> Iterator[findings.Evidence]:
    if field.kind in formats.CHECKS:
        yield from _plain(words.of_format(field.kind), 0.8)
    elif field.limits.get("format") in {"date", "time", "date-time"}:
        yield from _formatted(field.limits["format"], words)
    elif field.is_selective:
        yield from _matching(field, words)
    elif field.kind in {"date", "time", "money", "phone"}:
        spans = {"date": words.dates, "time": words.times, "money": words.money, "phone": words.phones}
        yield from _plain(spans[field.kind], 0.6)
        if asked and field.kind in {"time", "money"}:
            yield from _plain(words.numbers, 0.2)
    elif field.kind == "number":
        yield from (findings.Evidence(one.span, one.span.text, one.strength) for one in _numeric(field, words))
    elif field.kind == "identifier":
        yield from _plain([token for token in words.tokens if any(map(str.isdigit, token.text))][:64], 0.35)
    else:
        yield from wording.worded(field, words, asked)


def _formatted(name: str, words: findings.Words) -> Iterator[findings.Evidence]:
    if name == "date-time":
        yield from _plain(words.date_times, 0.8)
        return
    spans, convert = (words.dates, formats.iso_date) if name == "date" else (words.times, formats.iso_time)
    for span in spans:
        value = convert(span.text)
        if value:
            yield findings.Evidence(span, value, 0.6)


def _matching(field: properties.Property, words: findings.Words) -> Iterator[findings.Evidence]:
    """Words, or up to four words in a row, that match the tenant's pattern."""
    taken = words.dates + words.times + words.money + words.phones
    found = [token for token in words.tokens if field.matches(token.text) and field.admits(token.text)]
    if not found and len(words.tokens) < 200:
        found = [span for span in _runs(words) if field.matches(span.text)]
    for span in found[: findings.MOST_SPANS]:
        elsewhere = any(other.start <= span.start and span.end <= other.end for other in taken)
        yield findings.Evidence(span, span.text, 0.4 if elsewhere and len(words.tokens) > 1 else 0.6)


def _runs(words: findings.Words) -> Iterator[findings.Span]:
    for size in (4, 3, 2):
        for at in range(len(words.tokens) - size + 1):
            start, end = words.tokens[at].start, words.tokens[at + size - 1].end
            yield findings.Span(start, end, words.text[start:end], None)


def _plain(spans: list[findings.Span], strength: float) -> Iterator[findings.Evidence]:
    return (findings.Evidence(span, span.text, strength) for span in spans)
