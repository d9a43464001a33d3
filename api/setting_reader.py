"""Typed values from an environment of strings, each wrong one told in one line that names the variable."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

PORTS = {"http": 80, "https": 443}


class BadSetting(Exception):
    """A setting is missing or wrong; the text is one line that names the variable."""


class Reader:
    """Typed look-ups in a mapping of strings; an empty string counts as not set."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env

    def text(self, name: str) -> str | None:
        """The words; None when it is not set."""
        return self._env.get(name, "").strip() or None

    def number(self, name: str, default: float, *, low: float, high: float) -> float:
        """A number between these limits."""
        text = self.text(name)
        try:
            value = default if text is None else float(text)
        except ValueError:
            raise BadSetting(f"{name} is not a number: {text!r}") from None
        if not low <= value <= high:
            raise BadSetting(f"{name} must lie between {low:g} and {high:g}, not {value:g}")
        return value

    def whole(self, name: str, default: int, *, low: int, high: int) -> int:
        """A whole number between these limits."""
        value = self.number(name, default, low=low, high=high)
        if value != int(value):
            raise BadSetting(f"{name} must be a whole number, not {value:g}")
        return int(value)

    def choice(self, name: str, default: str, allowed: set[str]) -> str:
        """One of these words, whatever their case."""
        value = (self.text(name) or default).upper()
        if value not in allowed:
            raise BadSetting(f"{name} must be one of {', '.join(sorted(allowed))}, not {value!r}")
        return value

    def url(self, name: str) -> str | None:
        """An http(s) address."""
        value = self.text(name)
        if value is not None and web_address(value) is None:
            raise BadSetting(f"{name} is not an address of the form http(s)://host[:port][/path]")
        return value

    def header(self, name: str) -> str | None:
        """What can be the value of a header."""
        value = self.text(name)
        if value is not None and not (value.isascii() and value.isprintable()):
            raise BadSetting(f"{name} must be printable ASCII: it travels in a header")
        return value

    def database_url(self, name: str) -> str | None:
        """The address of a PostgreSQL database."""
        value = self.text(name)
        if value is not None and not value.startswith(("postgresql://", "postgres://")):
            raise BadSetting(f"{name} does not start with postgresql://")
        return value

    def parts(self, name: str) -> list[str]:
        """The parts between commas."""
        return [part.strip() for part in self._env.get(name, "").split(",") if part.strip()]


def web_address(url: str) -> SplitResult | None:
    """The parts of an http(s) address; None when it is none."""
    try:
        parts = urlsplit(url)
        has_port = parts.port is not None or not parts.netloc.endswith(":")
    except ValueError:
        return None
    return parts if parts.scheme in PORTS and _HOST.fullmatch(parts.hostname or "") and has_port else None


_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?")  # the second is an IPv6 address
