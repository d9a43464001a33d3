"""Reading a request's body: strict JSON within the limits, or one clear error."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import orjson
from flask import Request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, UnsupportedMediaType

from api.errors import InvalidRequest

MAX_BYTES = 1024 * 1024
MAX_EVENT_BYTES = 4 * MAX_BYTES
MAX_DEPTH = 32
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_BROKEN = "the body breaks off or is not framed as HTTP wants it"


class StrictRequest(Request):
    """JSON without duplicate keys, NaN, lone surrogates, NUL characters, endless numbers or endless depth."""

    @property
    def max_content_length(self) -> int | None:
        """Bytes; larger bodies are a 413."""
        return MAX_EVENT_BYTES if self.path.rstrip("/") == "/api/v1/events" else MAX_BYTES

    @max_content_length.setter
    def max_content_length(self, value: int | None) -> None:
        raise AttributeError(f"the limit is fixed, it cannot become {value}")

    def get_json(self, force: bool = False, silent: bool = False, cache: bool = True) -> Any:
        """The body's JSON value, read once."""
        del force, silent, cache  # Flask's own switches: here every body is read the one strict way
        if not hasattr(self, "_strict_json"):
            if not self.is_json and (self.mimetype or self._received()):
                raise UnsupportedMediaType
            self._strict_json = parse(self._received()) if self.mimetype else {}  # nothing at all names no field
        return self._strict_json

    def json_if_any(self) -> Any:
        """The body's value where none is needed: None without one, or for one that is no JSON by its type."""
        return self.get_json() if self.is_json and self._received() else None

    def skim(self) -> None:
        """Raises what `get_json` would raise for a body that is no JSON at all, in a fraction of its time."""
        if hasattr(self, "_strict_json"):
            return
        with suppress(orjson.JSONDecodeError):
            if self.is_json:
                orjson.loads(self._received())
                return
        self.get_json()

    def _received(self) -> bytes:
        try:
            data = self.get_data()
            # werkzeug cuts a chunked body off at the limit and says nothing.
            if self.content_length is None and len(data) == self.max_content_length and self._goes_on():
                raise RequestEntityTooLarge
        except HTTPException:
            raise
        # Each server has exceptions of its own for a body that breaks off, and nothing else can go wrong here.
        except Exception as error:
            raise InvalidRequest(_BROKEN, "Send it whole") from error
        if len(data) < (self.content_length or 0):  # the client hung up on its side
            raise InvalidRequest(_BROKEN, "Send it whole")
        if len(data) > MAX_BYTES and not data.lstrip().startswith(b"["):  # only many events may be so large
            raise RequestEntityTooLarge
        return data

    def _goes_on(self) -> bool:
        return bool(self.environ["wsgi.input"].read(1))


def parse(raw: bytes) -> Any:
    """The JSON value; raises InvalidRequest that says where it breaks."""
    try:
        value = _DECODER.decode(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the body is not UTF-8 at byte {error.start}", "Send UTF-8") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise InvalidRequest(f"the body is not JSON: {error.msg} at {place}", "Send well-formed JSON") from None
    except RecursionError:
        raise _too_deep() from None
    for text in _strings(value):
        if _UNSTORABLE.search(text):
            raise InvalidRequest(
                "a string holds a NUL character or a lone surrogate", "Remove characters U+0000 and U+D800–U+DFFF"
            )
    return value


def check_text(text: str, place: str) -> None:
    """The same rule for text outside the body; raises InvalidRequest."""
    if _UNSTORABLE.search(text):
        raise InvalidRequest(f"{place}: holds a NUL character or a lone surrogate", "Remove these characters")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise InvalidRequest(f"{twice[:100]!r} stands twice in one object", "Send each name once")
    return found


def _no_constant(text: str) -> Any:
    raise InvalidRequest(f"{text} is not JSON", "Send a finite number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise InvalidRequest("a number is too large", "Send numbers below 1.8e308")
    return number


def _bounded(text: str) -> int:
    if len(text) > 40:
        raise InvalidRequest("a whole number has more than 40 digits", "Send it as a string")
    return int(text)


def _strings(value: Any) -> Iterator[str]:
    """Every string of a value, names included, level by level; raises InvalidRequest beyond MAX_DEPTH."""
    level, depth = [value], 0
    while level:
        inner: list[Any] = []
        for item in level:
            if isinstance(item, str):
                yield item
            elif isinstance(item, dict | list):
                if depth == MAX_DEPTH:
                    raise _too_deep()
                inner += [*item, *item.values()] if isinstance(item, dict) else item
        level, depth = inner, depth + 1


def _too_deep() -> InvalidRequest:
    return InvalidRequest(f"the body is nested deeper than {MAX_DEPTH} levels", f"Send at most {MAX_DEPTH} levels")


# json.loads would make one for each body.
_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_finite, parse_int=_bounded
)
