"""Whether a JSON value surely fits a JSON Schema: a quick yes for most of those that do, for the library looks at each
keyword of each place by itself and takes some ten times as long. What is not surely right is the library's to judge."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import idna
from jsonschema import FormatChecker

Check = Callable[[Any], bool]
MAX_DEPTH = 20  # a schema that contains itself ends here

_KINDS: dict[str, tuple[type, ...]] = {
    "string": (str,), "number": (int, float), "integer": (int,), "boolean": (bool,), "null": (type(None),),
    "array": (list,), "object": (dict,),
}  # fmt: skip
_COMPARED = {
    "minimum": operator.ge, "maximum": operator.le, "exclusiveMinimum": operator.gt, "exclusiveMaximum": operator.lt,
}  # fmt: skip
_WORDS = {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment"}
_ELSEWHERE = _WORDS | {"$defs"}
_AT_THE_ROOT = {"$schema"}  # deeper, it would change what the other words mean
_NAME = re.compile(r"/\$defs/([A-Za-z0-9_.-]+)")  # nothing that is written in another way in a reference
_OF_TEXT = {"minLength", "maxLength", "pattern", "format"}
_OF_LISTS = {"items", "minItems", "maxItems"}
_OF_OBJECTS = {"properties", "required", "additionalProperties", "minProperties", "maxProperties"}
_KNOWN = {"type", "enum", "const"} | _ELSEWHERE | _OF_TEXT | _OF_LISTS | _OF_OBJECTS | set(_COMPARED)


# What is neither a space nor has a meaning of its own in an address.
_WORD = r"[^\s()<>\[\]:;@\\,.\"]+"
_MAILBOX = re.compile(rf"{_WORD}(?:\.{_WORD})*")


def is_email(value: object) -> bool:
    """Whether a text is name@host in any script; no quotes, no comments, nothing that cannot be seen. True of what is
    no text, as formats are. Raises UnicodeError for a host that cannot be."""
    if not isinstance(value, str):
        return True
    mailbox, _, host = value.rpartition("@")
    if len(mailbox.encode()) > 64 or len(host) > 253 or host.endswith((".", "。", "．", "｡")):
        return False
    idna.encode(host.lower())
    return mailbox.isprintable() and _MAILBOX.fullmatch(mailbox) is not None


@dataclass(frozen=True)
class Meaning:
    """What stands outside a schema: its formats, how its patterns are compiled (to something with a method `search`),
    and where a `$ref` that does not begin with `#` leads."""

    formats: FormatChecker
    pattern: Callable[[str], Any]
    document: Callable[[str], Any] = lambda _: False


def compiled(schema: Any, meaning: Meaning) -> Check:
    """What says True of values that fit the schema by JSON Schema 2020-12, and False of those that do not, or that it
    cannot tell. Raises only what a pattern's `search` raises."""
    return _Compiler(schema, meaning, 0).check(schema)


def _anything(_value: Any) -> bool:
    return True


def _unsure(_value: Any) -> bool:
    return False


class _Compiler:
    """One schema and, at `depth`, a node of it."""

    def __init__(self, root: Any, meaning: Meaning, depth: int) -> None:
        self._root, self._meaning, self._depth = root, meaning, depth

    def check(self, node: Any) -> Check:
        if node is True:
            return _anything
        if not isinstance(node, dict) or self._depth > MAX_DEPTH:
            return _unsure
        deeper = _Compiler(self._root, self._meaning, self._depth + 1)
        own = node.keys() - _ELSEWHERE - (_AT_THE_ROOT if node is self._root else set())
        if not own:
            return _anything
        compound = next((word for word in ("$ref", "anyOf", "if") if word in own), None)
        if compound is not None:
            return deeper._compound(compound, own, node)
        return deeper._plain(node) if own <= _KNOWN else _unsure

    def _compound(self, word: str, own: Set[str], node: Mapping[str, Any]) -> Check:
        if word == "$ref" and len(own) == 1:
            return self._referred(node[word])
        if word == "anyOf" and len(own) == 1:
            branches = [self.check(branch) for branch in node[word]]
            return lambda value: any(branch(value) for branch in branches)
        return self._chosen(node) if word == "if" and own <= {"type", "if", "then", "else"} else _unsure

    def _referred(self, reference: str) -> Check:
        document, _, place = reference.partition("#")
        root = self._meaning.document(document) if document else self._root
        if not place:
            return _Compiler(root, self._meaning, self._depth).check(root)
        named = _NAME.fullmatch(place)
        if named is None or not isinstance(root, dict) or named[1] not in root.get("$defs", {}):
            return _unsure
        return _Compiler(root, self._meaning, self._depth).check(root["$defs"][named[1]])

    def _chosen(self, node: Mapping[str, Any]) -> Check:
        """if, then and else, where the condition is a type that leaves no doubt."""
        condition = node["if"]
        types = _types(condition) if isinstance(condition, dict) and condition.keys() == {"type"} else ()
        if not types or {"number", "integer"} & set(types):
            return _unsure
        chosen = {kind for name in types for kind in _KINDS[name]}
        then = node.get("then", True)
        is_typed = isinstance(then, bool) or then.keys() & {"type", "$ref"}
        then, otherwise = self.check(then if is_typed else {**condition, **then}), self.check(node.get("else", True))
        base = self.check({"type": node["type"]} if "type" in node else True)
        return lambda value: base(value) and (then if type(value) in chosen else otherwise)(value)

    def _plain(self, node: Mapping[str, Any]) -> Check:
        """By the value's type alone, or by what is asked of values of that type."""
        checks = {kind: self._of_kind(kind, node) for name in _types(node) for kind in _KINDS.get(name, ())}
        if all(check is _anything for check in checks.values()):
            return lambda value: type(value) in checks
        find = checks.get

        def fits(value: Any) -> bool:
            check = find(type(value))
            return check is not None and check(value)

        return fits

    def _of_kind(self, kind: type, node: Mapping[str, Any]) -> Check:
        if node.keys() & {"enum", "const"}:
            return self._listed(kind, node)
        if kind is list:
            return _sized(self._of_list(node), node, "minItems", "maxItems")
        if kind is dict:
            return _sized(self._of_object(node), node, "minProperties", "maxProperties")
        return _all(self._of_text(node) if kind is str else _of_number(node) if kind in (int, float) else [])

    def _listed(self, kind: type, node: Mapping[str, Any]) -> Check:
        # 1 and 1.0 and true are one to Python, and not to JSON.
        if kind not in (str, type(None)) or node.keys() >= {"enum", "const"}:
            return _unsure
        allowed = [node["const"]] if "const" in node else node["enum"]
        listed = frozenset(value for value in allowed if type(value) is kind)
        return _all([listed.__contains__, *(self._of_text(node) if kind is str else [])])

    def _of_text(self, node: Mapping[str, Any]) -> list[Check]:
        checks: list[Check] = [_sized(_anything, node, "minLength", "maxLength")]
        if "pattern" in node:
            search = self._meaning.pattern(node["pattern"]).search
            checks.append(lambda value: search(value) is not None)
        if node.get("format") in self._meaning.formats.checkers:
            checks.append(_formatted(*self._meaning.formats.checkers[node["format"]]))
        return [check for check in checks if check is not _anything]

    def _of_list(self, node: Mapping[str, Any]) -> Check:
        if "items" not in node:
            return _anything
        item = self.check(node["items"])
        return lambda value: all(map(item, value))

    def _of_object(self, node: Mapping[str, Any]) -> Check:
        required = frozenset(node.get("required", ()))
        checks = {name: self.check(child) for name, child in node.get("properties", {}).items()}
        rest = self.check(node.get("additionalProperties", True))
        if not required and rest is _anything and not checks:
            return _anything
        find = checks.get
        return lambda value: required <= value.keys() and all(find(name, rest)(item) for name, item in value.items())


def _types(node: Mapping[str, Any]) -> Sequence[str]:
    """The types a node allows, as far as it can be told."""
    types = node.get("type", ("string", "null") if node.keys() & {"enum", "const"} else ())
    return (types,) if isinstance(types, str) else types


def _all(checks: Sequence[Check]) -> Check:
    if len(checks) > 1:
        return lambda value: all(check(value) for check in checks)
    return checks[0] if checks else _anything


def _sized(inner: Check, node: Mapping[str, Any], least: str, most: str) -> Check:
    """`inner` for values of the right length: what is too long is not looked through."""
    if least not in node and most not in node:
        return inner
    lowest, highest = node.get(least, 0), node.get(most, float("inf"))
    return lambda value: lowest <= len(value) <= highest and inner(value)


def _of_number(node: Mapping[str, Any]) -> list[Check]:
    limits = [(holds, node[keyword]) for keyword, holds in _COMPARED.items() if keyword in node]
    return [lambda value: all(holds(value, limit) for holds, limit in limits)] if limits else []


def _formatted(is_of_it: Callable[[Any], Any], faults: type[Exception] | Iterable[type[Exception]]) -> Check:
    caught = (faults,) if isinstance(faults, type) else tuple(faults)

    def fits(value: Any) -> bool:
        try:
            return bool(is_of_it(value))
        except caught:
            return False

    return fits
