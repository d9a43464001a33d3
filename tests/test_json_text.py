"""JSON as it is stored: always the same text, whichever library wrote it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from json_text import encoded


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        'Ünïcode \u2028 \U0001f600 " \\ \n \x00 \x7f',
        [1, -1, 0.1, 1.5e300, 2**63 - 1, 2**64, -(2**70), True],
        {"z": {"a": []}, "a": ({"b": None},)},
        json.loads("[" * 300 + "]" * 300),
    ],
)
def test_every_json_value_comes_back(value: Any) -> None:
    assert json.loads(encoded(value)) == json.loads(json.dumps(value))


@pytest.mark.parametrize("value", ["\ud800", {"a": "\udfff"}, object(), {"a": {1, 2}}])
def test_what_is_no_json_is_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        encoded(value)


def test_numbers_that_json_lacks_never_become_text() -> None:
    assert encoded([float("nan"), float("inf")]) == b"[null,null]"
    with pytest.raises(ValueError, match="not JSON compliant"):
        encoded([float("nan"), 2**64])
