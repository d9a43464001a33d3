"""Records what a database of the previous release holds: plays that release and dumps the rows. Run by hand, once a
release: `python -m tests.db.releases.record`. The first line of the file tells what to find in it."""

from __future__ import annotations

import json
import subprocess
import tempfile
import uuid
from pathlib import Path
from typing import Any

from db import embedded
from tests.api.people import PASSWORD
from tests.conftest import MASTER_KEY, Client, onboard
from tests.deploy import old_release

FILE = Path(__file__).with_name(f"0001-{old_release.LAST_MIGRATION:04d}.sql")
SAID = ("Where is my order?", "It is 4711", "When are you open?")
# Not of a business: made by the migrations themselves, or gone with a crash anyway.
LEFT_OUT = ("schema_migrations", "rate_buckets")
CUSTOMER = "2c1a5b0e-8d43-4f5e-9f3b-6a7c8d9e0f10"
ORDER_STAGE: dict[str, Any] = {
    "stage_name": "order_status",
    "stage_type": "information",
    "stage_description": "The customer asks where an order is.",
    "data_extraction": {
        "output_schema": {
            "type": "object",
            "properties": {"order_number": {"type": "string", "pattern": "^[0-9]{4,}$", "description": "Order number"}},
            "required": ["order_number"],
        }
    },
    "data_retrieval": {
        "method": "database_query",
        "config": {"source": "orders", "where": {"order_number": "{{ data.order_number }}"}, "fields": ["status"]},
    },
}
WEATHER_STAGE: dict[str, Any] = {
    "stage_name": "weather",
    "stage_type": "information",
    "stage_description": "The customer asks for the weather.",
    "data_retrieval": {
        "method": "api_call",
        "config": {"url": "https://weather.example/now", "secret_headers": {"X-Key": "rain and sun"}},
    },
}
HOURS_STAGE = {
    "stage_name": "opening_hours",
    "stage_type": "information",
    "stage_description": "The customer asks when the shop is open.",
    "response_generation_prompt": "Say that we are open from seven to six.",
}


def main() -> None:
    """Write the file anew."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        release = old_release.unpack(Path(folder) / "release")
        with embedded.running(Path(folder) / "pg", durable=False) as url:
            with old_release.running(release, url, migrating=True) as port:
                told = _play(Client(port, MASTER_KEY))
            FILE.write_text(f"-- {json.dumps(told)}\n{dump(url)}", encoding="utf-8")


def dump(url: str) -> str:
    """The rows of every table, as INSERTs in an order that can be loaded."""
    command = [str(embedded.programs_folder() / "pg_dump"), "--data-only", "--inserts", "--rows-per-insert=50"]
    command += ["--column-inserts", "--no-comments", *(f"--exclude-table-data={name}" for name in LEFT_OUT), url]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    # What begins with a backslash is for psql alone.
    return "".join(
        line for line in text.splitlines(keepends=True) if line.strip() and not line.startswith(("--", "\\"))
    )


def _play(master: Client) -> dict[str, Any]:
    owner = {"email": "owner@bakery.example", "name": "The baker", "password": PASSWORD}
    shop = onboard(master, "Corner Bakery", owner=owner)
    stranger = onboard(master, "Harbour Cycles")
    for client in (shop, stranger):
        for body in (ORDER_STAGE, HOURS_STAGE):
            _made(client.post("/api/v1/stages", body))
    _furnish(master, shop)
    replies = [_said(shop, text) for text in SAID]
    assert _said(stranger, "When are you open?")["conversation_id"] != replies[0]["conversation_id"]
    return {
        "business_id": shop.business_id,
        "api_key": shop.key,
        "stranger_key": stranger.key,
        "email": owner["email"],
        "user_id": CUSTOMER,
        "conversation_id": replies[-1]["conversation_id"],
        "turn_id": replies[1]["turn_id"],
        "said": SAID,
        "responses": [reply["response"] for reply in replies],
    }


def _furnish(master: Client, shop: Client) -> None:
    _made(shop.post("/api/v1/stages", WEATHER_STAGE))
    _made(shop.post("/api/v1/agents", {"agent_name": "Front desk", "agent_type": "ai", "instructions": "Be brief."}))
    template = {"kind": "response_generation", "text": "Answer {{ business.business_name }}'s customer."}
    _made(master.post("/api/v1/templates", template | {"template_id": "house.reply"}))
    _made(shop.post("/api/v1/templates", template | {"template_id": "bakery.reply"}))
    thing = {"name": "Rye bread", "price": 4.5, "currency": "EUR", "attributes": {"weight": 750}}
    _made(shop.post("/api/v1/products", thing | {"sku": "RYE-1"}))
    _made(shop.post("/api/v1/services", thing | {"name": "Baking course", "duration_minutes": 90}))
    _made(shop.post("/api/v1/users", {"user_id": CUSTOMER, "role": "customer", "name": "Ada"}))
    _made(shop.post("/api/v1/users", {"role": "operator", "email": "desk@bakery.example", "password": PASSWORD}))
    items = [{"name": "Rye bread", "quantity": 2, "unit_price": 4.5}]
    order = {"order_number": "4711", "user_id": CUSTOMER, "status": "baking", "items": items, "currency": "EUR"}
    _made(shop.post("/api/v1/orders", order))
    event = {"event_id": str(uuid.uuid4()), "business_id": shop.business_id, "event_type": "page_view"}
    _made(Client(master.port).post("/api/v1/events", event | {"event_timestamp": "2026-11-23T09:30:00Z"}))


def _made(answer: Any) -> None:
    assert answer.status == 201, answer.body


def _said(client: Client, message: str) -> dict[str, Any]:
    answer = client.post("/api/v1/messages", {"user_id": CUSTOMER, "message": message, "metadata": {"page": "/cakes"}})
    assert answer.status == 200, answer.body
    body: dict[str, Any] = answer.body
    return body


if __name__ == "__main__":
    main()
