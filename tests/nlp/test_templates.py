"""Template texts: what they may hold, and what comes out."""

from __future__ import annotations

import time
from typing import Any

import pytest

from nlp import templates
from nlp.errors import BadTemplate

VALUES: dict[str, Any] = {
    "message": "{{ now }} {x} <b>",
    "data": {"order-number": "4411", "count": 2, "urgent": True, "none": None, "items": [{"name": "Lämp"}]},
    "now": "today",
}


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("Hello {{ now }}!", "Hello today!"),
        ("{{now}}{{\n now\t}}", "todaytoday"),
        ("{{ data.order-number }}", "4411"),
        ("{{ data.count }} {{ data.urgent }} [{{ data.none }}]", "2 true []"),
        ("{{ data.items }}", '[{"name": "Lämp"}]'),
        ("{{ data.items.0.name }} [{{ data.items.1.name }}]", "Lämp []"),
        ("[{{ data.count.real }}] [{{ data.order-number.upper }}] [{{ missing.path }}]", "[] [] []"),
        ('a { "json": {"b": {}}} }} text', 'a { "json": {"b": {}}} }} text'),
        ("", ""),
    ],
)
def test_variables_are_filled_in(text: str, rendered: str) -> None:
    assert templates.render(text, VALUES) == rendered


def test_values_are_never_scanned_again() -> None:
    assert templates.render("{{ message }}", VALUES) == "{{ now }} {x} <b>"


def test_names_used_are_told_once_each() -> None:
    assert templates.names_used("{{ data.a }} {{ now }} {{ data.b }}") == ["data", "now"]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("Dear {{ x | upper }}", "line 1, column 6: '{{ x | upper }}'"),
        ("one\ntwo {{ }}", "line 2, column 5: '{{ }}'"),
        ("{{x", "line 1, column 1: '{{x'"),
        ("{{ a..b }}", "line 1, column 1"),
        ("{{ 1x }}", "line 1, column 1"),
        ("{{{ now }}}", "line 1, column 1"),
        ("{{ now() }}", "line 1, column 1"),
        ("{{ data.__class__['x'] }}", "line 1, column 1"),
    ],
)
def test_malformed_braces_are_refused_with_their_place(text: str, place: str) -> None:
    with pytest.raises(BadTemplate) as caught:
        templates.check(text, templates.NAMES)
    assert place in str(caught.value)


def test_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BadTemplate, match=r"unknown name 'cart' in '\{\{ cart\.total \}\}'; use one of: message, "):
        templates.check("{{ cart.total }}", templates.NAMES)
    templates.check("{{ cart.total }}", [*templates.NAMES, "cart"])


def test_too_many_variables_are_refused() -> None:
    with pytest.raises(BadTemplate, match="51 variables"):
        templates.check("{{ now }}" * 51, templates.NAMES)


def test_rendered_text_is_bounded() -> None:
    assert len(templates.render("{{ message }}" * 10, {"message": "x" * 32_000})) == templates.MAX_RENDERED


def test_context_fields_define_further_names() -> None:
    fields = {"cart": "metadata.cart", "first": "metadata.cart.0", "nothing": "metadata.other"}
    templates.check_context_fields(fields)
    values = {"metadata": {"cart": ["lamp"]}}
    assert templates.context(values, fields) == {"cart": ["lamp"], "first": "lamp", "nothing": None}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"data": "metadata.x"}, "'data' is a name of the platform"),
        ({"my cart": "metadata.x"}, "'my cart' is not a name"),
        ({"cart": "session.cart"}, "'session.cart' is not a path"),
        ({"cart": "metadata.cart | x"}, "is not a path"),
        ({"cart": 5}, "5 is not a path"),
        ({f"n{number}": "now" for number in range(51)}, "more than 50"),
    ],
)
def test_bad_context_fields_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(BadTemplate) as caught:
        templates.check_context_fields(fields)
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["{{" + " " * 16_000, "{{ a" * 4000, "{{ " + "a." * 8000, "{" * 16_000])
def test_hostile_text_is_refused_at_once(text: str) -> None:
    started = time.process_time()
    with pytest.raises(BadTemplate):
        templates.check(text, templates.NAMES)
    assert time.process_time() - started < 1
