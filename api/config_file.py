"""A set-up as a YAML file for people and git; scalars mean what they mean in JSON, everything else is text."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable
from typing import Any, cast

import yaml

from api import bodies
from api.errors import InvalidRequest

MAX_BYTES = 16 * 1024 * 1024  # a set-up that no request could bring
_LONG = 80
_WIDTH = 100
_TAG = "tag:yaml.org,2002:"
# Not YAML 1.1's own list, which reads `no` as false, 9:30 as 570 and a day as a date.
_SCALARS = (
    ("null", re.compile(r"~|null|"), ["~", "n", ""]),
    ("bool", re.compile(r"true|false"), list("tf")),
    ("int", re.compile(r"-?(0|[1-9][0-9]*)"), list("-0123456789")),
    ("float", re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?"), list("-0123456789")),
)
# Other line ends and tabs do not survive a block; quoted they do.
_NOT_FOR_BLOCKS = re.compile(r"[^\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010fffe]")
_UNFOLDABLE = re.compile(r"^ |  | $|\n")


class _Loader(yaml.SafeLoader):
    """Plain data only: no tags, anchors, merges or names that stand twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """A node; an alias could make a small file huge or endless."""
        event = cast(Any, self).peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) or getattr(event, "tag", None):
            raise yaml.MarkedYAMLError(None, None, "tags, anchors and aliases are not used here", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        """An object; its names are text, however they look."""
        found: dict[Hashable, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value in found:
                problem = f"{key.value[:100]!r} stands twice" if isinstance(key, yaml.ScalarNode) else "no name"
                raise yaml.MarkedYAMLError(None, None, problem, key.start_mark)
            found[key.value] = self.construct_object(value, deep=deep)
        return found


class _Dumper(yaml.SafeDumper):
    """Texts of several lines stand as they are, long ones are folded, the rest as YAML likes it."""

    def ignore_aliases(self, data: Any) -> bool:
        """The same object twice is written twice."""
        del data  # whatever it is
        return True

    def represent_text(self, text: str) -> Any:
        """A string in the style in which it is best read and surely read back."""
        style = None
        if _NOT_FOR_BLOCKS.search(text):
            style = '"'
        elif "\n" in text:
            style = "|"
        elif len(text) > _LONG and not _UNFOLDABLE.search(text):
            style = ">"
        return self.represent_scalar(f"{_TAG}str", text, style)


_Loader.yaml_implicit_resolvers = {}
for _name, _pattern, _starts in _SCALARS:
    _whole = re.compile(rf"(?:{_pattern.pattern})\Z")
    _Loader.add_implicit_resolver(f"{_TAG}{_name}", _whole, _starts)
    # On top of its own list, so that other readers of YAML see the same texts and numbers too.
    _Dumper.add_implicit_resolver(f"{_TAG}{_name}", _whole, _starts)
_Dumper.add_representer(str, _Dumper.represent_text)


def written(document: dict[str, Any]) -> str:
    """The document as YAML."""
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_WIDTH)
    return text


def parsed(raw: bytes) -> Any:
    """The value in a YAML or JSON file, within the limits of a request's body but for its length; raises
    InvalidRequest."""
    if len(raw) > MAX_BYTES:
        raise InvalidRequest(f"the file is larger than {MAX_BYTES} bytes", "Keep it smaller")
    try:
        value = _Loader(raw.decode("utf-8")).get_single_data()
        return bodies.parse(json.dumps(value).encode())
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the file is not UTF-8 at byte {error.start}", "Save it as UTF-8") from None
    except (yaml.YAMLError, ValueError) as error:
        raise InvalidRequest(f"the file is not YAML: {' '.join(str(error).split())[:300]}") from None
    except RecursionError:
        raise InvalidRequest(f"the file is nested deeper than {bodies.MAX_DEPTH} levels") from None
