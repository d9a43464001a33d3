"""A business's ledger written straight into the database, as the engine would leave it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

from tests.api import shop
from tests.conftest import Client

Sql = Callable[..., list[tuple[Any, ...]]]
COSTLY = {"prompt_tokens": 100, "completion_tokens": 10, "cost_usd": 0.5}


STAGES = ("first", "second")


class Ledger:
    """Conversations with their turns, written as the engine would leave them."""

    def __init__(self, sql: Sql, client: Client) -> None:
        self.sql, self.client = sql, client
        self.stages = dict(zip(STAGES, shop.furnish(client, *map(shop.stage, STAGES)), strict=True))

    def conversation(self, status: str = "active", start: str = "2026-01-10T12:00:00Z") -> str:
        user_id, conversation_id = str(uuid.uuid4()), str(uuid.uuid4())
        self.sql("INSERT INTO users (user_id) VALUES (%s)", user_id)
        business_id = self.client.business_id
        self.sql(
            "INSERT INTO memberships (business_id, user_id, role) VALUES (%s, %s, 'customer')", business_id, user_id
        )
        self.sql(
            "INSERT INTO conversations (business_id, conversation_id, user_id, session_id, status, start_time)"
            " VALUES (%s, %s, %s, 's', %s, %s)",
            business_id, conversation_id, user_id, status, start,
        )  # fmt: skip
        return conversation_id

    def turn(self, conversation_id: str, number: int, stage: str, **values: Any) -> str:
        """A turn of two seconds in a stage of that name, at 12:`number` unless `at` says when."""
        at = values.pop("at", f"2026-01-10T12:{number:02}:00Z")
        turn = {
            "business_id": self.client.business_id, "turn_id": str(uuid.uuid4()), "conversation_id": conversation_id,
            "number": number, "state": "done", "stage_id": self.stages.get(stage, stage), "stage_name": stage,
            "timings_ms": {"total": 2000.0}, "created_at": at, "entered_stage": False, "missing_fields": [],
            "conversation_status": "active", **COSTLY, **values,
        }  # fmt: skip
        shown = [json.dumps(value) if isinstance(value, dict | list) else value for value in turn.values()]
        self.sql(
            f"INSERT INTO turns ({', '.join(turn)}, finished_at) VALUES ({', '.join(['%s'] * len(turn))},"
            " %s::timestamptz + interval '2 seconds')",
            *shown, at,
        )  # fmt: skip
        return str(turn["turn_id"])

    def step(self, turn_id: str, position: int, at: str, **values: Any) -> None:
        """A step of a turn."""
        step = {
            "business_id": self.client.business_id, "turn_id": turn_id, "position": position,
            "kind": "response_generation", "outcome": "ok", "stage_name": "first", "model": "m-1", "attempts": 1,
            "latency_ms": 1.0, "content": b"", "created_at": at, **COSTLY, **values,
        }  # fmt: skip
        names = ", ".join(step)
        self.sql(f"INSERT INTO turn_steps ({names}) VALUES ({', '.join(['%s'] * len(step))})", *step.values())

    def message(self, conversation_id: str, sender: str, at: str) -> None:
        """A message."""
        self.sql(
            "INSERT INTO messages (business_id, message_id, conversation_id, sender_type, message_content, created_at)"
            " VALUES (%s, %s, %s, %s, '', %s)",
            self.client.business_id, str(uuid.uuid4()), conversation_id, sender, at,
        )  # fmt: skip
