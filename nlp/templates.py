"""Template texts: `{{ name }}` and `{{ name.path }}`, filled in one pass and without any logic."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from nlp.errors import BadTemplate

NAMES = (
    "message",
    "history",
    "business",
    "agent",
    "stage",
    "stages",
    "user",
    "data",
    "missing_fields",
    "retrieved",
    "metadata",
    "now",
)
MAX_VARIABLES = 50
MAX_RENDERED = 65_536

Path = tuple[str, ...]

_PATH = r"[A-Za-z_][A-Za-z0-9_]{0,63}(?:\.[A-Za-z0-9_-]{1,64})*"
_VARIABLE = re.compile(r"\{\{[ \t\r\n]*(" + _PATH + r")[ \t\r\n]*\}\}|\{\{")
_WHOLE_PATH = re.compile(_PATH)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
# json.dumps makes one anew for each call that is not of the plainest.
_ENCODER = json.JSONEncoder(ensure_ascii=False, default=str)


def check(text: str, allowed_names: Collection[str]) -> None:
    """Raises BadTemplate for malformed braces, a name that is not allowed or too many variables."""
    variables = [part for part in _compiled(text) if isinstance(part, tuple)]
    if len(variables) > MAX_VARIABLES:
        raise BadTemplate(f"the text has {len(variables)} variables; use at most {MAX_VARIABLES}")
    for path in variables:
        if path[0] not in allowed_names:
            known = ", ".join(allowed_names)
            raise BadTemplate(f"unknown name '{path[0]}' in '{{{{ {'.'.join(path)} }}}}'; use one of: {known}")


def parts(text: str) -> tuple[str | Path, ...]:
    """The text's literal pieces (str) and the paths of its variables, in their order; raises BadTemplate."""
    return _compiled(text)


def names_used(text: str) -> list[str]:
    """The names (without their paths) of a text's variables, each once; raises BadTemplate."""
    return list(dict.fromkeys(part[0] for part in _compiled(text) if isinstance(part, tuple)))


def render(text: str, values: Mapping[str, Any]) -> str:
    """The text with its variables filled in, MAX_RENDERED characters of it; what has no value leaves nothing."""
    parts = (part if isinstance(part, str) else as_text(find(values, part)) for part in _compiled(text))
    return "".join(parts)[:MAX_RENDERED]


def find(values: Any, path: Path) -> Any:
    """The value at a path of keys and list indexes; None when there is none."""
    for part in path:
        if isinstance(values, Mapping):
            values = values.get(part)
        elif isinstance(values, list | tuple) and part.isascii() and part.isdigit() and int(part) < len(values):
            values = values[int(part)]
        else:
            return None
    return values


def as_text(value: Any) -> str:
    """How a value stands in a text: strings as they are, nothing for null, anything else as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else as_json(value)


def as_json(value: Any) -> str:
    """A value as JSON; what JSON lacks (times, decimals) as a string."""
    return _ENCODER.encode(value)


def context(values: Mapping[str, Any], context_data_fields: Mapping[str, str]) -> dict[str, Any]:
    """The names that a stage defines for itself, each with its value or None."""
    return {name: find(values, tuple(path.split("."))) for name, path in context_data_fields.items()}


def check_context_fields(context_data_fields: Mapping[str, str]) -> None:
    """Raises BadTemplate unless it maps new names to paths into NAMES, such as {"cart": "metadata.cart"}."""
    if len(context_data_fields) > MAX_VARIABLES:
        raise BadTemplate(f"context_data_fields has more than {MAX_VARIABLES} names; remove some")
    for name, path in context_data_fields.items():
        if not _NAME.fullmatch(name):
            raise BadTemplate(f"context_data_fields: {name!r} is not a name; use letters, digits and '_', at most 64")
        if name in NAMES:
            raise BadTemplate(f"context_data_fields: '{name}' is a name of the platform; choose another one")
        if not isinstance(path, str) or not _WHOLE_PATH.fullmatch(path) or path.split(".")[0] not in NAMES:
            known = ", ".join(NAMES)
            raise BadTemplate(f"context_data_fields.{name}: {path!r} is not a path that starts with one of: {known}")


@functools.lru_cache(maxsize=4096)
def _compiled(text: str) -> tuple[str | Path, ...]:
    parts: list[str | Path] = []
    end = 0
    for match in _VARIABLE.finditer(text):
        if match.group(1) is None:
            raise BadTemplate(_malformed(text, match.start()))
        parts += [text[end : match.start()], tuple(match.group(1).split("."))]
        end = match.end()
    return (*parts, text[end:])


def _malformed(text: str, position: int) -> str:
    line = text.count("\n", 0, position) + 1
    column = position - text.rfind("\n", 0, position)
    found = text[position : position + 30].split("\n", maxsplit=1)[0]
    return f"line {line}, column {column}: '{found}' is not a variable; write '{{{{ name }}}}' or '{{{{ name.path }}}}'"
