"""What an output_schema may look like: everything that strict structured output can be reduced to, and no more."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import re2
from jsonschema import Draft202012Validator, ValidationError, validators
from jsonschema.exceptions import best_match

from nlp.errors import BadSchema

# Those that the installed packages check, whatever else a machine has, and in time that grows with the text alone:
# "iri" takes half a minute for a long one, "regex" some seconds.
FORMATS = ("date", "date-time", "email", "idn-email", "ipv4", "ipv6", "time", "uri", "uri-reference", "uuid")
TYPES = ("string", "number", "integer", "boolean", "null", "array", "object")
MAX_FIELDS = 100
MAX_NESTING = 5
MAX_ENUM_VALUES = 1000
MAX_NODES = 2000
MAX_REFERENCES = 8
MAX_FAULTS = 50
DEFINITIONS = "#/$defs/"
DIALECT = "https://json-schema.org/draft/2020-12/schema"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_ROOT = {"type", "properties", "required", "additionalProperties"}
_WORDS = {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment"}
_SHAPE = {"type", "enum", "const", "properties", "required", "additionalProperties", "items"}
_LIMITS = {
    "pattern", "format", "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
    "multipleOf", "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties",
}  # fmt: skip


def compile_pattern(pattern: str) -> Any:
    """The pattern for re2, which matches in linear time whatever a tenant writes; raises re2.error."""
    options = re2.Options()
    options.log_errors = False
    return re2.compile(pattern, options)


def unique_items(validator: Any, wanted: bool, value: Any, _schema: Any) -> Iterator[ValidationError]:
    """`uniqueItems` in time that grows with the list alone."""
    # The library compares each item with each other: minutes for a long list of mixed types.
    if wanted and validator.is_type(value, "array"):
        seen = {json.dumps(item, sort_keys=True) for item in value}
        if len(seen) < len(value):
            yield ValidationError("the list has an item twice")


def resolved(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """The node with its `$ref` into `$defs` followed; its own description wins."""
    while "$ref" in node:
        own = {key: value for key, value in node.items() if key != "$ref"}
        node = {**definitions[_definition(node["$ref"])], **own}
    return node


_META: Any = validators.extend(Draft202012Validator, {"uniqueItems": unique_items})  # type: ignore[no-untyped-call]


def check(output_schema: Any) -> None:
    """Raises BadSchema, whose text names the place and what to do."""
    if not isinstance(output_schema, dict):
        raise BadSchema('output_schema is not an object; send a JSON Schema with "type": "object"')
    _check_root(output_schema)
    error = best_match(islice(_META(Draft202012Validator.META_SCHEMA).iter_errors(output_schema), MAX_FAULTS))
    if error is not None:
        place = ".".join(map(str, error.absolute_path)) or "output_schema"
        raise BadSchema(f"{place}: not valid JSON Schema 2020-12: {error.message[:300]}")
    _Check(output_schema.get("$defs", {})).fields(output_schema.get("properties", {}))
    unknown = [name for name in output_schema.get("required", []) if name not in output_schema.get("properties", {})]
    if unknown:
        raise BadSchema(f"required: '{unknown[0]}' is not among the properties; add the property or remove the name")


def _check_root(schema: Mapping[str, Any]) -> None:
    if schema.get("type") != "object":
        raise BadSchema('type: the root of output_schema must say "type": "object"')
    for keyword in schema:
        if keyword not in _ROOT | _WORDS | {"$schema", "$defs"}:
            raise BadSchema(f"{keyword}: not allowed at the root of output_schema; put it on a property or remove it")
    if not isinstance(schema.get("additionalProperties", True), bool):
        raise BadSchema("additionalProperties: only true or false can be used; list every field under properties")
    if str(schema.get("$schema", DIALECT)).rstrip("#") != DIALECT:
        raise BadSchema(f"$schema: {schema['$schema']!r} is not understood; remove it or send {DIALECT!r}")


class _Check:
    """One walk over the properties, following references."""

    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self._definitions = definitions
        self._used: set[str] = set()
        self._enum_values = 0
        self._nodes = 0

    def fields(self, properties: Mapping[str, Any]) -> None:
        if len(properties) > MAX_FIELDS:
            raise BadSchema(f"properties: {len(properties)} fields; use at most {MAX_FIELDS}")
        for name, node in properties.items():
            if not _NAME.fullmatch(name):
                raise BadSchema(
                    f"properties: {name!r} is not a field name; start with a letter or '_', then letters, digits,"
                    " '_' and '-', at most 64"
                )
            self._node(node, f"properties.{name}", 1, ())
            if types_of(resolved(node, self._definitions)) == ["null"]:
                raise BadSchema(f"properties.{name}: only null would fit, which means unknown; name a type with values")
        for name in self._definitions:
            if name not in self._used:
                raise BadSchema(f"$defs.{name}: no field refers to it; remove it")

    def _node(self, node: Any, place: str, depth: int, references: tuple[str, ...]) -> None:
        if not isinstance(node, Mapping):
            raise BadSchema(f"{place}: true and false cannot be used as a schema; name a type")
        self._nodes += 1
        # References that fan out multiply without nesting any deeper.
        if self._nodes > MAX_NODES:
            raise BadSchema(f"{place}: more than {MAX_NODES} parts once references are followed; use a smaller schema")
        if depth > MAX_NESTING:
            raise BadSchema(f"{place}: nested more than {MAX_NESTING} deep; use flatter fields")
        if "$ref" in node:
            self._reference(node, place, depth, references)
        elif "anyOf" in node:
            _only(node, {"anyOf"} | _WORDS, place, "beside anyOf; put it into each branch")
            for position, branch in enumerate(node["anyOf"]):
                self._node(branch, f"{place}.anyOf.{position}", depth, references)
        else:
            _only(node, _SHAPE | _LIMITS | _WORDS, place, "in a field; remove it or describe the field another way")
            self._plain(node, place, depth, references)

    def _reference(self, node: Mapping[str, Any], place: str, depth: int, references: tuple[str, ...]) -> None:
        _only(node, {"$ref"} | _WORDS, place, "beside $ref; put it into the definition")
        name = _definition(node["$ref"])
        if name not in self._definitions:
            raise BadSchema(f"{place}.$ref: {node['$ref']!r} is not found; only '#/$defs/<name>' of this schema works")
        if name in references:
            raise BadSchema(f"{place}.$ref: '{name}' contains itself; recursive schemas cannot be used")
        if len(references) >= MAX_REFERENCES:
            raise BadSchema(f"{place}.$ref: more than {MAX_REFERENCES} references in a row; write the definition out")
        self._used.add(name)
        self._node(self._definitions[name], f"$defs.{name}", depth, (*references, name))

    def _plain(self, node: Mapping[str, Any], place: str, depth: int, references: tuple[str, ...]) -> None:
        _check_limits(node, place)
        self._values(node, place)
        types = types_of(node)
        if not types:
            raise BadSchema(f"{place}: no type; name one of: {', '.join(TYPES)}")
        if "object" in types:
            self._object(node, place, depth, references)
        if "array" in types:
            if "items" not in node:
                raise BadSchema(f"{place}: an array needs items; describe what it holds")
            self._node(node["items"], f"{place}.items", depth + 1, references)

    def _object(self, node: Mapping[str, Any], place: str, depth: int, references: tuple[str, ...]) -> None:
        if not node.get("properties"):
            raise BadSchema(f"{place}: an object needs properties; a free-form object cannot be asked for")
        if not isinstance(node.get("additionalProperties", True), bool):
            raise BadSchema(f"{place}.additionalProperties: only true or false can be used; list the properties")
        for name in node.get("required", []):
            if name not in node["properties"]:
                raise BadSchema(f"{place}.required: '{name}' is not among the properties; add it or remove the name")
        for name, child in node["properties"].items():
            if not _NAME.fullmatch(name):
                raise BadSchema(f"{place}.properties: {name!r} is not a field name; use letters, digits, '_' and '-'")
            self._node(child, f"{place}.properties.{name}", depth + 1, references)

    def _values(self, node: Mapping[str, Any], place: str) -> None:
        values = allowed_values(node)
        if values == []:
            raise BadSchema(f"{place}.enum: it is empty, so nothing would fit; list the values or leave it out")
        self._enum_values += len(values or ())
        if self._enum_values > MAX_ENUM_VALUES:
            raise BadSchema(f"{place}.enum: more than {MAX_ENUM_VALUES} values in all; use fewer")
        typed = Draft202012Validator({"type": types_of(node) or []})
        for value in values or ():
            if isinstance(value, dict | list):
                raise BadSchema(f"{place}.enum: only strings, numbers, booleans and null can be listed")
            if not typed.is_valid(value):
                raise BadSchema(f"{place}.enum: {value!r} is not of the field's type; change the value or the type")


def types_of(node: Mapping[str, Any]) -> list[str]:
    """The types that a node allows; without `type` those of its listed values."""
    if "type" in node:
        return [node["type"]] if isinstance(node["type"], str) else list(node["type"])
    return list(dict.fromkeys(_type_of(value) for value in allowed_values(node) or ()))


def allowed_values(node: Mapping[str, Any]) -> list[Any] | None:
    """The values that `enum` or `const` list; None when anything of the type goes."""
    if "const" in node:
        return [node["const"]]
    values: list[Any] | None = node.get("enum")
    return values


def _type_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "integer" if isinstance(value, int) else "number"
    return "array" if isinstance(value, list) else "object" if isinstance(value, dict) else "string"


def _definition(reference: str) -> str:
    name = reference.removeprefix(DEFINITIONS) if reference.startswith(DEFINITIONS) else ""
    return name.replace("~1", "/").replace("~0", "~")


def _only(node: Mapping[str, Any], allowed: set[str], place: str, advice: str) -> None:
    for keyword in node:
        if keyword not in allowed:
            raise BadSchema(f"{place}.{keyword}: not allowed {advice}")


def _check_limits(node: Mapping[str, Any], place: str) -> None:
    for least, most in (("minLength", "maxLength"), ("minItems", "maxItems"), ("minimum", "maximum")):
        if {least, most} <= node.keys() and node[least] > node[most]:
            raise BadSchema(f"{place}.{least}: more than {most}, so nothing would fit; change one of them")
    if "pattern" in node:
        try:
            compile_pattern(node["pattern"])
        except re2.error as error:
            raise BadSchema(
                f"{place}.pattern: {node['pattern']!r} cannot be used ({_plain_text(error)});"
                " look-around and backreferences are not supported (RE2 syntax)"
            ) from None
    if "format" in node and node["format"] not in FORMATS:
        raise BadSchema(f"{place}.format: {node['format']!r} is not known; use one of: {', '.join(FORMATS)}")


def _plain_text(error: re2.error) -> str:
    text = error.args[0] if error.args else ""
    return text.decode(errors="replace") if isinstance(text, bytes) else str(text)
