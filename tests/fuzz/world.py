"""A business with one of every kind of object, so that made-up requests meet more than 404s."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from tests.api import shop
from tests.conftest import Client, onboard

STAGE = shop.stage(
    "order_status",
    "The customer asks where an order is.",
    fields={"order_number": {"type": "string", "description": "Number of the order"}},
    fallback_text="Somebody will call you.",
)


@dataclass(frozen=True)
class World:
    """The business's key and the ids that stand in it, by the names that paths and bodies have for them."""

    business: Client
    ids: dict[str, str]


def furnished(master: Client) -> World:
    """A new business with everything in it."""
    owner = onboard(master, "Fuzz")
    ids = {"business_id": owner.business_id}
    ids["agent_id"] = _made(owner, "agents", {"agent_name": "Ada"})["agent_id"]
    ids["stage_id"] = _made(owner, "stages", STAGE | {"agent_id": ids["agent_id"]})["stage_id"]
    template = {"template_id": "own.reply", "kind": "response_generation", "text": "Hello {{ user.name }}"}
    ids["template_id"] = _made(owner, "templates", template)["template_id"]
    ids["product_id"] = _made(owner, "products", {"name": "Lamp", "price": 5, "currency": "EUR"})["product_id"]
    ids["service_id"] = _made(owner, "services", {"name": "Repair"})["service_id"]
    ids["user_id"] = _made(owner, "users", {"name": "Kim"})["user_id"]
    item = {"name": "Lamp", "quantity": 1, "unit_price": 5, "product_id": ids["product_id"]}
    order = {"order_number": "4411", "user_id": ids["user_id"], "items": [item], "currency": "EUR"}
    ids["order_id"] = _made(owner, "orders", order)["order_id"]
    reply = shop.write(owner, "Where is order 4411?", ids["user_id"])
    assert reply.status == 200, reply.body
    ids |= {name: reply.body[name] for name in ("conversation_id", "message_id", "turn_id")}
    event = {"event_id": str(uuid.uuid4()), "event_type": "view", "event_timestamp": "2026-01-02T03:04:05Z"}
    ids["event_id"] = _made(owner, "events", event | {"business_id": owner.business_id})["event_id"]
    ids["key_id"] = _made(owner, f"businesses/{owner.business_id}/api-keys", {"name": "second"})["key_id"]
    return World(owner, ids)


def _made(owner: Client, resource: str, body: dict[str, Any]) -> dict[str, Any]:
    created = owner.post(f"/api/v1/{resource}", body)
    assert created.status == 201, created.body
    made: dict[str, Any] = created.body
    return made
