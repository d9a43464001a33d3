"""Businesses with one of every kind of object, and one word in all of it that stands nowhere else."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from tests.api import people, shop
from tests.conftest import Client, onboard


@dataclass(frozen=True)
class Tenant:
    """A business's key, the word in all its texts, and its ids and names, by what paths and bodies call them."""

    client: Client
    word: str
    ids: dict[str, str]
    secrets: tuple[str, ...]

    @property
    def texts(self) -> set[str]:
        """What nobody else can know."""
        return {self.word, *self.secrets}

    @property
    def marks(self) -> set[str]:
        """What nobody else is shown, unless they said it first."""
        return {*self.texts, *self.ids.values()}


def furnished(master: Client, name: str = "zq") -> Tenant:
    """A new business with everything in it."""
    word, tag = f"{name}{uuid.uuid4().hex[:12]}", uuid.uuid4().hex
    owner = onboard(master, word, business_description=f"Sells {word}.", address=f"{word} Lane 1")
    email = f"{word}@example.com"
    person: dict[str, Any] = {
        "name": word,
        "email": email,
        "phone_number": "+44 20 7946 0000",
        "profile": {"note": word},
    }
    ids = {"business_id": owner.business_id, "sku": f"{tag}-sku", "order_number": f"{tag}-4411"}
    ids["agent_name"] = f"Ada {tag}"
    agent = {"agent_name": ids["agent_name"], "instructions": f"Say {word}."}
    ids["agent_id"] = _made(owner, "agents", agent)["agent_id"]
    template = {"template_id": f"{tag}.reply", "kind": "response_generation", "text": f"{word} {{{{ user.name }}}}"}
    ids["template_id"] = _made(owner, "templates", template)["template_id"]
    _made(owner, "stages", _calling(word))
    ids["stage_name"] = f"order_status_{tag}"
    ids["stage_id"] = _made(owner, "stages", _asking(ids, word))["stage_id"]
    product: dict[str, Any] = {
        "name": f"Lamp {word}",
        "sku": ids["sku"],
        "price": 5,
        "currency": "EUR",
        "attributes": {"a": word},
    }
    ids["product_id"] = _made(owner, "products", product)["product_id"]
    ids["service_id"] = _made(owner, "services", {"name": f"Repair {word}"})["service_id"]
    ids["user_id"] = _made(owner, "users", person)["user_id"]
    item: dict[str, Any] = {"name": f"Lamp {word}", "quantity": 1, "unit_price": 5, "product_id": ids["product_id"]}
    order: dict[str, Any] = {
        "order_number": ids["order_number"],
        "user_id": ids["user_id"],
        "items": [item],
        "currency": "EUR",
    }
    ids["order_id"] = _made(owner, "orders", order)["order_id"]
    ids |= _talked(owner, ids["user_id"], word)
    event: dict[str, Any] = {
        "event_id": str(uuid.uuid4()),
        "event_type": word,
        "event_timestamp": "2026-01-02T03:04:05Z",
    }
    seen = {"business_id": owner.business_id, "event_data": {"page": word}}
    ids["event_id"] = _made(owner, "events", event | seen)["event_id"]
    key = _made(owner, f"businesses/{owner.business_id}/api-keys", {"name": word})
    ids["key_id"] = key["key_id"]
    assert Client(owner.port).post("/api/save-config", {"businessApiKey": owner.key}).status == 200
    return Tenant(owner, word, ids, (str(owner.key), key["api_key"], f"{word}-secret"))


def hired(tenant: Tenant) -> Client:
    """An owner of the business, logged in."""
    return people.hire(tenant.client, "owner").client(tenant.client.port)


def _made(owner: Client, resource: str, body: dict[str, Any]) -> dict[str, Any]:
    created = owner.post(f"/api/v1/{resource}", body)
    assert created.status == 201, created.body
    made: dict[str, Any] = created.body
    return made


def _asking(ids: dict[str, str], word: str) -> dict[str, Any]:
    fields = {"order_number": {"type": "string", "description": f"Number of the order {word}"}}
    changes = {"agent_id": ids["agent_id"], "stage_selection_example_conversations": f"Customer: {word}?"}
    description = f"The customer asks where an order is {word}."
    return shop.stage(ids["stage_name"], description, fields=fields, fallback_text=word, **changes)


def _calling(word: str) -> dict[str, Any]:
    config = {"url": f"https://api.example/{word}", "secret_headers": {"X-Key": f"{word}-secret"}}
    retrieval = {"method": "api_call", "config": config}
    fields = {"iban": {"type": "string", "pattern": "^NEVER$", "description": "Never given"}}
    return shop.stage(f"call_{word}", "The customer wants money back.", fields=fields, data_retrieval=retrieval)


def _talked(owner: Client, user_id: str, word: str) -> dict[str, str]:
    said = f"Where is order {word}?"
    reply = shop.write(owner, said, user_id, session_id=f"session-{user_id}", metadata={"cart": word})
    assert reply.status == 200, reply.body
    told: dict[str, str] = {
        name: reply.body[name] for name in ("conversation_id", "message_id", "turn_id", "session_id")
    }
    return told
