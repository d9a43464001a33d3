"""A valid body for everything that routes take, with a {name} wherever it refers to an object or gives it a name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import schemas

_ITEM = {"name": "Lamp", "quantity": 1, "unit_price": 5, "product_id": "{product_id}"}
_REPAIR = {"name": "Repair", "quantity": 1, "unit_price": 5, "service_id": "{service_id}"}
_PROMPT = {"prompt": {"template_id": "{template_id}"}}
_STAGE = {
    "business_id": "{business_id}",
    "agent_id": "{agent_id}",
    "stage_name": "{stage_name}",
    "stage_type": "information",
    "stage_description": "Anything.",
    "stage_selection": {"next_stages": ["{stage_name}"]},
    "response_generation": _PROMPT,
}
_PRODUCT = {"business_id": "{business_id}", "name": "Lamp", "sku": "{sku}"}
_CONTACT = {"business_id": "{business_id}", "name": "Kim"}
_ORDER = {
    "business_id": "{business_id}",
    "order_number": "{order_number}",
    "user_id": "{user_id}",
    "items": [_ITEM, _REPAIR],
    "currency": "EUR",
}
_MESSAGE = {"business_id": "{business_id}", "user_id": "{user_id}", "message": "Hello"}
_EVENT = {"event_type": "view", "event_timestamp": "2026-01-02T03:04:05Z", "business_id": "{business_id}"}
_SET_UP_STAGE = {
    "stage_name": "{stage_name}",
    "stage_type": "information",
    "stage_description": "Anything.",
    "agent_name": "{agent_name}",
    "response_generation": _PROMPT,
}
# By the name of the schema in schemas/. A new one must be added here: without it nobody would try foreign ids in it.
BODIES: dict[str, list[Any]] = {
    "agent_create": [{"business_id": "{business_id}", "agent_name": "{agent_name}"}],
    "agent_update": [{"business_id": "{business_id}", "agent_name": "{agent_name}"}],
    "api_key_create": [{"business_id": "{business_id}", "name": "another"}],
    "business_create": [{"owner_id": "{user_id}", "business_name": "Another {unique}"}],
    "business_update": [{"business_id": "{business_id}", "business_description": "Another"}],
    "config": [
        {
            "business_id": "{business_id}",
            "version": 1,
            "business": {},
            "agents": [{"agent_name": "{agent_name}"}],
            "templates": [{"template_id": "{template_id}", "kind": "response_generation", "text": "x"}],
            "stages": [_SET_UP_STAGE],
            "products": [{"name": "Lamp", "sku": "{sku}"}],
            "services": [{"name": "Repair", "sku": "{sku}"}],
        }
    ],
    "conversation_update": [{"business_id": "{business_id}", "agent_id": "{agent_id}"}],
    "event_batch": [
        {**_EVENT, "event_id": "{event_id}", "user_id": "{user_id}", "conversation_id": "{conversation_id}"},
    ],
    "login": [{"email": "nobody@example.com", "password": "a long pass phrase", "business_id": "{business_id}"}],
    "message_request": [
        {**_MESSAGE, "conversation_id": "{conversation_id}"},
        {**_MESSAGE, "session_id": "{session_id}"},
    ],
    "operator_message": [{"business_id": "{business_id}", "message": "Hello"}],
    "order_create": [_ORDER],
    "order_update": [_ORDER],
    "product_create": [_PRODUCT],
    "product_update": [_PRODUCT],
    "save_config": [{"businessApiKey": "{key}", "businessId": "{business_id}"}],
    "service_create": [_PRODUCT],
    "service_update": [_PRODUCT],
    "stage_create": [_STAGE],
    "stage_try": [{"business_id": "{business_id}", "message": "Hello", "user_id": "{user_id}"}],
    "stage_update": [_STAGE],
    "template_create": [
        {"business_id": "{business_id}", "template_id": "{template_id}", "kind": "response_generation", "text": "x"}
    ],
    "template_update": [{"business_id": "{business_id}", "text": "Another"}],
    "user_create": [_CONTACT | {"user_id": "{user_id}"}],
    "user_update": [_CONTACT],
}
# What names an object although its own name does not end in _id.
_NAMES = {"agent_name", "stage_name", "sku", "order_number", "next_stages"}
# Made by whoever sends it, and known to nobody else.
_OWN_INVENTIONS = {"owner_id"}


def names_in(recipe: Any) -> set[str]:
    """The names that a recipe leaves open."""
    text = json.dumps(recipe)
    return {part.partition("}")[0] for part in text.split("{")[1:] if part.partition("}")[0].isidentifier()}


def filled(recipe: Any, values: Mapping[str, str]) -> Any:
    """The body with these values in the open places."""
    text = json.dumps(recipe)
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", value)
    return json.loads(text)


def references(schema: str) -> set[str]:
    """The fields of a schema, in whatever depth, that name an object."""
    found = set(_fields(schemas.document(schema), set()))
    return {name for name in found if name.endswith(("_id", "Id")) or name in _NAMES} - _OWN_INVENTIONS


def fields_in(recipe: Any) -> set[str]:
    """The fields that a recipe fills, in whatever depth."""
    if isinstance(recipe, dict):
        return set(recipe).union(*(fields_in(value) for value in recipe.values()))
    return set().union(*(fields_in(item) for item in recipe)) if isinstance(recipe, list) else set()


def _fields(node: Any, seen: set[str]) -> Iterator[str]:
    if isinstance(node, list):
        for item in node:
            yield from _fields(item, seen)
    if not isinstance(node, dict):
        return
    file = node.get("$ref", "")
    if isinstance(file, str) and file.endswith(".json") and file not in seen:
        yield from _fields(schemas.document(file.removesuffix(".json")), seen | {file})
    for name, value in node.items():
        if name == "properties":
            yield from value
        if name not in {"examples", "default"}:
            yield from _fields(value, seen)
