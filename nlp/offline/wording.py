"""Free text as a field's value: names, places, what follows "is", short answers, the customer's story."""

import re
from collections.abc import Iterator

from nlp import similarity
from nlp.offline import findings, manners, properties

FROM = similarity.word_set("from leaving departing starting beginning of")
TO = similarity.word_set("to until till through returning back arriving for towards into")
_AT = similarity.word_set("in at near around by within")
NO_PREFERENCE = re.compile(
    r"(?:\bany(?:thing| ?one)?(?: is fine| will do| works|[\s.!]*$)|\bno preference|do(?:n['’]?t| not) (?:care|mind)"
    r"|does(?:n['’]?t| not) matter|whatever|either(?: is fine)?[\s.!]*$)",
    re.IGNORECASE,
)
_LEAD_IN = re.compile(
    r"(?:well|ok(?:ay)?|yes|yeah|sure|please|um|so|hi|hello|it['’]?s|it is|that['’]?s|that would be|make it|how about"
    r"|i['’]?d like(?: it)?(?: to be)?|i would like(?: it)?(?: to be)?|i want|i prefer|i['’]?m|i am|we are|this is"
    r"|let['’]?s (?:say|do|go with)|(?:my|the) (?:\w{1,20} ){1,3}(?:is|was|would be)"
    r"|for|in|to|at|on|from|with|by|the|a|an)(?=[\s,:])[\s,:]*",
    re.IGNORECASE,
)
_GAP = re.compile(r"\s+")
_TAIL = re.compile(r"[\s,]*\b(?:please|thanks|thank you|then)[.!]*$|[\s.,!]+$", re.IGNORECASE)
_VERDICT = re.compile(r"\s(?:sounds?|would|will|is|works|seems?)\b.*$", re.IGNORECASE | re.DOTALL)
_LOWER_PLACE = re.compile(r"\b(?:in|near|from|to) ([^\W\d_A-Z]{3,20})(?: please)?(?=[.,!]|$)")


def worded(field: properties.Property, words: findings.Words, asked: bool) -> Iterator[findings.Evidence]:
    """Everything that may be the value of a field of free text."""
    yield from _stated(field, words)
    yield from _named(field, words)
    if asked:
        yield from _lower_places(words) if field.kind == "place" else ()
        is_plain = not (words.money or words.dates or words.times or words.numbers)
        yield from _bare(words) if is_plain or field.kind not in {"name", "person", "place"} else ()
    if field.kind == "narrative":
        yield from _narrated(words)


def _lower_places(words: findings.Words) -> Iterator[findings.Evidence]:
    for match in _LOWER_PLACE.finditer(words.text[:2000]):
        yield _evidence(words, match.start(1), match.end(1), 0.25)


def _evidence(words: findings.Words, start: int, end: int, strength: float) -> findings.Evidence:
    text = words.text[start:end]
    return findings.Evidence(findings.Span(start, end, text, text), text, strength)


def _named(field: properties.Property, words: findings.Words) -> Iterator[findings.Evidence]:
    """Capitalised words, the likelier for what stands around them."""
    for span in words.names:
        before = similarity.words(words.text[max(0, span.start - 24) : span.start])[-1:]
        following = similarity.words(words.text[span.end : span.end + 24])[:1]
        strength = 0.3
        if field.kind == "place" and before and before[0] in _AT | (FROM | TO if field.direction else {"to"}):
            strength += 0.25
        if field.kind in {"name", "person"} and before and before[0] in _AT:
            strength -= 0.3
        if field.cues & set(map(similarity.stem, following)):
            strength += 0.1
        yield findings.Evidence(span, span.text, strength)


def _stated(field: properties.Property, words: findings.Words) -> Iterator[findings.Evidence]:
    """What follows the field's name, as in `my surname is X` or `city: X`."""
    phrase = r"[\W_]{1,3}".join(map(re.escape, similarity.words(field.name)))
    if not phrase:
        return
    pattern = rf"\b{phrase}(?: ?[:=] ?| (?:is|was|will be|should be|would be) )([^\n.,;!?]{{1,80}})"
    for match in re.finditer(pattern, words.text[:8000], re.IGNORECASE):
        text = _TAIL.sub("", match.group(1)).strip()
        if text and not manners.is_question(words.text) and len(text.split()) <= 6:
            yield _evidence(words, match.start(1), match.start(1) + len(text), 0.7)


def _bare(words: findings.Words) -> Iterator[findings.Evidence]:
    """What is left of a short answer to a question without "I'd like", "in", "please" and the like."""
    if len(words.text) > 120 or "?" in words.text or manners.act(words.text):
        return
    start, end = 0, len(words.text)
    while match := _LEAD_IN.match(words.text, start) or _GAP.match(words.text, start):
        start = match.end()
    if match := _VERDICT.search(words.text, start):
        end = match.start()
    while match := _TAIL.search(words.text, start, end):
        end = match.start()
    text = words.text[start:end]
    opening = manners.spoken_words(text)[:1]
    doubtful = manners.NO | manners.ASKING_WORDS | similarity.STOP_WORDS - {"it", "us", "me"}
    # In a longer answer the capitalised words say it better.
    most = 3 if words.names else 5
    if opening and opening[0] not in doubtful and len(text.split()) <= most and not NO_PREFERENCE.search(text):
        yield _evidence(words, start, end, 0.35)


def _narrated(words: findings.Words) -> Iterator[findings.Evidence]:
    """A statement of some length, told in the customer's own sentences."""
    told = [part for part in manners.sentences(words.text[:4000]) if not manners.is_question(part)]
    for sentence in sorted(told, key=len, reverse=True)[:1]:
        if len(set(similarity.words(sentence)) - similarity.STOP_WORDS) >= 3 and len(sentence) <= 1000:
            start = words.text.find(sentence)
            yield _evidence(words, start, start + len(sentence), 0.5)
