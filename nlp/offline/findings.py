"""Where values stand in a customer's words: dates, times, numbers, amounts, addresses, names (English)."""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass

from nlp import similarity
from nlp.offline import formats

MOST_SPANS = 64
MOST_NAMED_WORDS = 6

# Quantifiers are bounded throughout: a message of 32,000 letters must not cost quadratic time.
_MONTH = "|".join(formats.MONTHS)
_WEEKDAY = "monday|tuesday|wednesday|thursday|friday|saturday|sunday"
_UNITS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
_UNITS += " seventeen eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
NUMBER_WORDS = {word: value for value, word in enumerate(_UNITS.split())}
NUMBER_WORDS |= {word: 10 * value for value, word in enumerate(_TENS.split(), start=2)}
_SPELLED = "|".join(NUMBER_WORDS)
_DAY = r"\d{1,2}(?:st|nd|rd|th)?"
_DATE = re.compile(
    rf"""(?<![\w./-])(?:
    (?P<year>\d{{4}})-(?P<month>\d{{2}})-(?P<day>\d{{2}})
    |\d{{1,2}}[./-]\d{{1,2}}[./-]\d{{2,4}} | \d{{1,2}}/\d{{1,2}}
    |(?:{_MONTH})\.?\ (?:the\ )?{_DAY}(?:,?\ \d{{4}})?
    |(?:the\ )?{_DAY}\ (?:of\ )?(?:{_MONTH})(?:,?\ \d{{4}})?
    |(?:the\ )?\d{{1,2}}(?:st|nd|rd|th)\ of\ (?:this|next)\ month
    |(?:the\ )?\d{{1,2}}(?:st|nd|rd|th)(?!\s+(?:of\s|{_MONTH}))(?!\s+(?:street|st|avenue|ave|floor|time))
    |day\ after\ tomorrow|today|yesterday|tonight|tomorrow
    |(?:(?:next|this|coming)\ )?(?:{_WEEKDAY})(?:\ next\ week)?|(?:next|this)\ (?:week(?:end)?|month)
    )(?![\w/-])""",
    re.IGNORECASE | re.VERBOSE,
)
_PART = r"in\ the\ (?:morning|afternoon|evening)|at\ night"
_TIME = re.compile(
    rf"""(?<![\w:.])(?:
    \d{{1,2}}(?::\d{{2}}){{0,2}}\ ?(?:[ap]\.m\.|[ap]m|o'?\ ?clock(?:\ (?:{_PART}))?|{_PART})
    |(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d)?(?:Z|[+-]\d{{2}}:\d{{2}})?
    |(?:half|quarter|\d{{1,2}})\ (?:past|to)\ (?:\d{{1,2}}|{_SPELLED})(?:\ (?:[ap]\.m\.|[ap]m|{_PART}))?
    |(?:{_SPELLED})\ (?:[ap]\.m\.|[ap]m|o'?clock|{_PART})
    |(?:morning|afternoon|evening)\ \d{{1,2}}(?::\d{{2}})?|noon|midnight
    )(?![\w:])""",
    re.IGNORECASE | re.VERBOSE,
)
_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)")
_FIGURE = r"(?:\d{1,3}(?:,\d{3}){1,5}|\d{1,15})(?:\.\d{1,6})?"
_NUMBER = re.compile(rf"(?<![\w.,:/-])[-−]?{_FIGURE}(?![\w:/-]|[.,]\d)", re.ASCII)
_SPELLED_FIGURE = rf"(?:a\ (?=hundred|thousand)|)(?:{_SPELLED}|hundred|thousand)"
_SPELLED_FIGURE += rf"(?:(?:\ and\ |[ -])(?:{_SPELLED}|hundred|thousand)){{0,8}}"
_SPELLED_NUMBER = re.compile(rf"(?<![\w-]){_SPELLED_FIGURE}(?![\w-])", re.IGNORECASE)
_CURRENCY = r"(?:dollars?|euros?|pounds?|bucks|usd|eur|gbp|€|£)(?!\w)"
_MONEY = re.compile(
    rf"[$€£¥]\ ?{_FIGURE}(?!\w)|(?<![\w.,]){_FIGURE}\ ?{_CURRENCY}|(?<![\w-]){_SPELLED_FIGURE}\ {_CURRENCY}",
    re.IGNORECASE,
)
_PHONE = re.compile(r"(?<![\w.,-])(?:\+|\()?\d(?:[ ()./-]{0,2}\d){6,14}(?![\w-])")
_WORD = re.compile(r"\S+")
_EDGES = ".,;:!?()[]{}<>\"'“”‘’`#"
_LINKERS = frozenset({"of", "the", "de", "and", "&", "vs", "vs.", "la", "del", "von", "van"})


@dataclass(frozen=True)
class Span:
    """A value and where its words stand in the message."""

    start: int
    end: int
    text: str
    value: object


@dataclass(frozen=True)
class Evidence:
    """Words that may be a field's value; strength in [0, 1.5], from about 0.5 they are worth believing."""

    span: Span
    value: object
    strength: float


class Words:
    """One customer message, its spans found when first asked for."""

    def __init__(self, text: str) -> None:
        self.text = text

    @functools.cached_property
    def tokens(self) -> list[Span]:
        """Whitespace-separated words without the punctuation at their edges."""
        found = []
        for match in _WORD.finditer(self.text):
            left = len(match.group()) - len(match.group().lstrip(_EDGES))
            bare = match.group().strip(_EDGES)
            if bare:
                start = match.start() + left
                found.append(Span(start, start + len(bare), bare, bare))
        return found

    @functools.cached_property
    def singulars(self) -> list[tuple[str, Span]]:
        """Every word without its plural s, with the token it stands in."""
        return [(singular(word), token) for token in self.tokens for word in similarity.words(token.text)]

    @functools.cached_property
    def dates(self) -> list[Span]:
        return _spans(_DATE, self.text, str)

    @functools.cached_property
    def times(self) -> list[Span]:
        return _spans(_TIME, self.text, str)

    @functools.cached_property
    def date_times(self) -> list[Span]:
        return _spans(_DATE_TIME, self.text, str)

    @functools.cached_property
    def money(self) -> list[Span]:
        return _spans(_MONEY, self.text, amount)

    @functools.cached_property
    def phones(self) -> list[Span]:
        return [span for span in _spans(_PHONE, self.text, str) if not _overlaps(span, self.dates)]

    @functools.cached_property
    def numbers(self) -> list[Span]:
        """Numbers that are no part of a date, a time or an amount of money."""
        taken = self.dates + self.times + self.money
        every = _spans(_NUMBER, self.text, figure) + _spans(_SPELLED_NUMBER, self.text, spelled)
        return sorted((span for span in every if not _overlaps(span, taken)), key=lambda span: span.start)

    @functools.cached_property
    def names(self) -> list[Span]:
        """Runs of capitalised words, those that only open a sentence left out."""
        return _capitalised_runs(self.text, self.tokens[:2000], self.dates + self.times)

    def of_format(self, name: str) -> list[Span]:
        """Tokens that are a valid value of a JSON Schema format such as `email`, `uri` or `uuid`."""
        check = formats.CHECKS[name]
        return [token for token in self.tokens if check(token.text)][:MOST_SPANS]


def _spans(pattern: re.Pattern[str], text: str, value_of: Callable[[str], object]) -> list[Span]:
    found = []
    for match in pattern.finditer(text):
        found.append(Span(match.start(), match.end(), match.group(), value_of(match.group())))
        if len(found) == MOST_SPANS:
            break
    return found


def _overlaps(span: Span, others: list[Span]) -> bool:
    return any(span.start < other.end and other.start < span.end for other in others)


def singular(word: str) -> str:
    """A word without a plural s: choices are compared less loosely than whole sentences."""
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def figure(text: str) -> float | int | None:
    """The number in words such as `$1,630.50`; None when there is none."""
    match = re.search(_FIGURE, text)
    if not match:
        return None
    plain = match.group().replace(",", "")
    negative = -1 if text.lstrip()[:1] in "-−" else 1
    return negative * (float(plain) if "." in plain else int(plain))


def spelled(text: str) -> int:
    """The number that words such as `eight hundred and ten` mean."""
    total = part = 0
    for word in re.split("[ -]", text.casefold()):
        if word == "thousand":
            total, part = total + 1000 * max(part, 1), 0
        elif word == "hundred":
            part = 100 * max(part, 1)
        else:
            part += NUMBER_WORDS.get(word, 0)
    return total + part


def amount(text: str) -> float | int | None:
    """The number in an amount of money, in figures or in words."""
    in_figures = figure(text)
    return spelled(text) if in_figures is None else in_figures


def _capitalised_runs(text: str, tokens: list[Span], taken: list[Span]) -> list[Span]:
    runs: list[Span] = []
    run: list[Span] = []
    for position, token in enumerate([*tokens, Span(len(text), len(text), "", "")]):
        gap = text[run[-1].end : token.start] if run else " "
        is_state_code = gap == ", " and len(token.text) == 2 and token.text.isupper()
        is_linker = bool(run) and token.text.lower() in _LINKERS and _leads_on(tokens, position, text, taken, gap)
        follows = gap in {" ", ", ", " & "} and _is_capitalised(token, text, taken)
        if (is_state_code or is_linker or follows) and len(run) < MOST_NAMED_WORDS:
            run.append(token)
        else:
            runs += [_joined(run, text)] if run else []
            run = [token] if _is_capitalised(token, text, taken) else []
        if len(runs) == MOST_SPANS:
            break
    return runs


def _joined(run: list[Span], text: str) -> Span:
    start, end = run[0].start, run[-1].end
    return Span(start, end, text[start:end], text[start:end])


def _is_capitalised(token: Span, text: str, taken: list[Span]) -> bool:
    before = text[max(0, token.start - 40) : token.start].rstrip()[-1:]
    opens = not before or before in ".!?:\n"
    is_name = token.text[:1].isupper() and not similarity.STOP_WORDS.issuperset(similarity.words(token.text))
    return is_name and not opens and not _overlaps(token, taken)


def _leads_on(tokens: list[Span], position: int, text: str, taken: list[Span], gap: str) -> bool:
    following = tokens[position + 1 : position + 2]
    return gap == " " and bool(following) and _is_capitalised(following[0], text, taken)
