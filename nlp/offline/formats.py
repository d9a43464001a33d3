"""Values of JSON Schema formats: what a text must look like, and the ISO form of dates and times."""

import datetime
import ipaddress
import re
import urllib.parse
import uuid
from collections.abc import Callable

MONTHS = (
    *("january", "february", "march", "april", "may", "june", "july"),
    *("august", "september", "october", "november", "december"),
    *("jan", "feb", "mar", "apr", "jun", "jul", "aug", "sept", "sep", "oct", "nov", "dec"),
)
_MONTH_NUMBERS = {name[:3]: number for number, name in enumerate(MONTHS[:12], start=1)}
_EMAIL = re.compile(r"[^@\s]{1,64}@[^@\s.]{1,63}(?:\.[^@\s.]{1,63}){1,8}")


def iso_date(text: str) -> str | None:
    """The ISO form of a complete date; None when the year is missing or day and month can't be told apart."""
    plain = re.sub(r"(?<=\d)(?:st|nd|rd|th)\b|,|\bof\b|\bthe\b|\.(?=\s)", " ", text.casefold())
    parts = re.split(r"[\s./-]+", plain.strip())
    if len(parts) != 3:
        return None
    try:
        if len(parts[0]) == 4:
            year, month, day = map(int, parts)
        elif parts[0][:3] in _MONTH_NUMBERS:
            year, month, day = int(parts[2]), _MONTH_NUMBERS[parts[0][:3]], int(parts[1])
        elif parts[1][:3] in _MONTH_NUMBERS:
            year, month, day = int(parts[2]), _MONTH_NUMBERS[parts[1][:3]], int(parts[0])
        else:
            year, month, day = _numeric_date([int(part) for part in parts], dotted="." in text)
        return datetime.date(year, month, day).isoformat() if year > 999 else None
    except ValueError:
        return None


def _numeric_date(parts: list[int], dotted: bool) -> tuple[int, int, int]:
    first, second, year = parts
    if dotted or first > 12:
        return year, second, first
    if second > 12 or first == second:
        return year, first, second
    raise ValueError("day and month can't be told apart")


def iso_time(text: str) -> str | None:
    """`HH:MM:SS` of a clock time such as `5:30 pm`; None for vaguer words."""
    plain = text.casefold().replace(".", "")
    if plain in {"noon", "midnight"}:
        return "12:00:00" if plain == "noon" else "00:00:00"
    match = re.match(r"(\d{1,2})(?::(\d\d))?(?::(\d\d))?\s?(am|pm|$)", plain)
    if not match or not (match.group(4) or match.group(2)):
        return None
    hour = int(match.group(1)) % 12 if match.group(4) else int(match.group(1))
    hour += 12 if match.group(4) == "pm" else 0
    return f"{hour:02}:{match.group(2) or '00'}:{match.group(3) or '00'}" if hour < 24 else None


def _accepts(build: Callable[[str], object]) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        try:
            build(text)
        except ValueError:
            return False
        return True

    return check


def _is_uri(text: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in {"http", "https", "ftp"} and bool(parts.netloc) and text.isascii()


CHECKS: dict[str, Callable[[str], bool]] = {
    "email": lambda text: bool(_EMAIL.fullmatch(text)),
    "uri": _is_uri,
    "uuid": lambda text: len(text) == 36 and _accepts(uuid.UUID)(text),
    "ipv4": _accepts(ipaddress.IPv4Address),
    "ipv6": _accepts(ipaddress.IPv6Address),
    "hostname": lambda text: bool(re.fullmatch(r"(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,63}", text)),
}
