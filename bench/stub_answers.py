"""What the model stub says: the smallest answer that fits any JSON Schema, guided a little by the customer's words."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

MOST_DEPTH = 24
STAY = "none"
_NUMBER = re.compile(r"\b\d{4,}\b")
_WORD = re.compile(r"[a-z]+")
_FORMATS = {
    "uuid": "00000000-0000-4000-8000-000000000000",
    "date-time": "2026-01-01T00:00:00Z",
    "date": "2026-01-01",
    "time": "00:00:00Z",
    "email": "customer@example.com",
    "uri": "https://example.com/",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "hostname": "example.com",
}
_WORDS = ("Thank", "you", "for", "your", "message", "this", "is", "what", "we", "can", "do", "about", "it", "today")


def text(request: Mapping[str, Any], tokens: int) -> str:
    """The content of the answer to a Chat Completions request: JSON when it has a schema, else words."""
    wanted = (request.get("response_format") or {}).get("json_schema")
    if wanted is None:
        return " ".join(_WORDS[number % len(_WORDS)] for number in range(max(1, tokens)))
    schema = wanted.get("schema") or {}
    return json.dumps(_Sample(schema, _said(request)).of(schema), separators=(",", ":"))


def _said(request: Mapping[str, Any]) -> str:
    content = request["messages"][-1].get("content")
    return content if isinstance(content, str) else ""


class _Sample:
    """One answer: `root` is where references point, `said` the customer's words."""

    def __init__(self, root: Any, said: str) -> None:
        self._root = root
        self._words = set(_WORD.findall(said.lower()))
        number = _NUMBER.search(said)
        self._number = number.group() if number else None
        self._first_word = said.strip().partition(" ")[0]

    def of(self, schema: Any, depth: int = 0) -> Any:
        if not isinstance(schema, Mapping) or not schema or depth > MOST_DEPTH:
            return None
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return self._choice(schema["enum"])
        inner = self._inner(schema)
        return self._typed(schema, depth) if inner is None else self.of(inner, depth + 1)

    def _inner(self, schema: Mapping[str, Any]) -> Any:
        """The schema that this one stands for; None when it describes its value itself."""
        if "$ref" in schema:
            return self._referred(schema["$ref"])
        options = schema.get("anyOf") or schema.get("oneOf")
        if options:
            return self._option(options)
        kinds = schema.get("type")
        if isinstance(kinds, list) and "null" in kinds and len(kinds) > 1:
            return self._option([{**schema, "type": kind} for kind in kinds])
        if schema.get("allOf"):
            return _merged(schema, [self._resolved(part) for part in schema["allOf"]])
        return None

    def _referred(self, reference: str) -> Any:
        found = self._root
        for part in reference.lstrip("#").split("/"):
            if part:
                found = found[part.replace("~1", "/").replace("~0", "~")]
        return found

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._resolved(self._referred(schema["$ref"])) if "$ref" in schema else schema

    def _choice(self, values: list[Any]) -> Any:
        """The value that the customer's words name best; nothing named: stay, else the first."""
        hits = {index: len(self._words & set(_WORD.findall(str(value).lower()))) for index, value in enumerate(values)}
        best = max(hits, key=lambda index: hits[index])
        return STAY if not hits[best] and STAY in values else values[best]

    def _option(self, options: list[Any]) -> Any:
        """Null only where a text could stand and the customer named no number."""
        real = next((each for each in options if each.get("type") != "null"), options[0])
        is_told = _kind(real) != "string" or "enum" in real or self._number is not None
        return real if is_told or len(options) == 1 else {"type": "null"}

    def _typed(self, schema: Mapping[str, Any], depth: int) -> Any:
        match _kind(schema):
            case "object":
                properties = schema.get("properties", {})
                return {name: self.of(properties.get(name), depth + 1) for name in schema.get("required", properties)}
            case "array":
                return [self.of(schema.get("items"), depth + 1) for _ in range(schema.get("minItems", 0))]
            case "string":
                return self._string(schema)
            case "integer" | "number" as kind:
                return _number(schema, kind)
            case "boolean":
                return True
        return None

    def _string(self, schema: Mapping[str, Any]) -> str:
        value = _FORMATS.get(schema.get("format", ""), self._number or self._first_word)
        return value.ljust(schema.get("minLength", 0), "-")[: schema.get("maxLength")]


def _kind(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0]
    if isinstance(kind, str):
        return kind
    return "object" if "properties" in schema else "array" if "items" in schema else "string"


def _merged(schema: Mapping[str, Any], parts: list[Mapping[str, Any]]) -> dict[str, Any]:
    whole = {name: value for name, value in schema.items() if name != "allOf"}
    for part in parts:
        properties = {**whole.get("properties", {}), **part.get("properties", {})}
        required = list(dict.fromkeys([*whole.get("required", []), *part.get("required", [])]))
        whole |= dict(part)
        if properties:
            whole |= {"properties": properties, "required": required}
    return whole


def _number(schema: Mapping[str, Any], kind: str) -> float | int:
    step = schema.get("multipleOf", 1)
    low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    value = -(-low // step) * step
    if value == schema.get("exclusiveMinimum"):
        # Between two exclusive limits a fraction may be all there is.
        value = value + step if kind == "integer" or high is None or value + step < high else (value + high) / 2
    return int(value) if kind == "integer" else value
