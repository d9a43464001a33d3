"""The rows of a large platform as lines of CSV: a few businesses with extremes, thousands of ordinary ones."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from db.cipher import Cipher, Keyring

BIG, WIDE, ORDINARY = 0, 1, 2
BIG_SHARE = 0.1
LONG_CONVERSATIONS, LONG_TURNS = 10, 500
MODELS = ("gpt-5.4-mini", "gpt-5.4")
STEPS = ("stage_selection", "data_extraction", "response_generation")
EVENT_TYPES = ("page_view", "click", "search", "add_to_cart", "checkout", "purchase", "chat_opened", "chat_closed")
_SAYING = "Where is my parcel with the number 4411? It should have been here on Tuesday. "
Lines = Iterator[str]


class Conversation(NamedTuple):
    """The n-th conversation: whose it is, when it began, how many turns it has, how it stands now."""

    n: int
    business: int
    start: datetime
    turns: int
    status: str


@dataclass(frozen=True)
class Plan:
    """How much of everything. Business 0 has a tenth of all messages and events, business 1 `stages` stages and ten
    conversations of 1,000 messages, as far as `messages` allows."""

    businesses: int
    messages: int
    events: int
    stages: int
    days: int
    ledger_bytes: int

    @functools.cached_property
    def begin(self) -> datetime:
        """When the first row was written."""
        return datetime.now(UTC) - timedelta(days=self.days)

    @functools.cached_property
    def conversations(self) -> list[Conversation]:
        """All conversations, oldest first."""
        chance, sizes = random.Random(7), []
        left = self.messages // 2
        long = min(LONG_CONVERSATIONS, left // (10 * LONG_TURNS))
        sizes += [(WIDE, LONG_TURNS)] * long
        left -= long * LONG_TURNS
        while left > 0:
            sizes.append((self.chosen(chance), min(left, chance.randint(1, 9))))
            left -= sizes[-1][1]
        chance.shuffle(sizes)
        step = timedelta(days=self.days) / (len(sizes) + 1)
        kinds = random.Random(8).choices(("completed", "active", "paused"), (6, 3, 1), k=len(sizes))
        return [
            Conversation(n, business, self.begin + n * step, turns, kinds[n])
            for n, (business, turns) in enumerate(sizes)
        ]

    @property
    def measured(self) -> dict[str, str]:
        """The ids of the businesses worth measuring."""
        return {name: key("business", n) for name, n in (("big", BIG), ("wide", WIDE), ("ordinary", ORDINARY))}

    def chosen(self, chance: random.Random) -> int:
        """Whose the next row is."""
        return BIG if chance.random() < BIG_SHARE else chance.randrange(1, self.businesses)

    def stages_of(self, business: int) -> int:
        """How many stages a business has."""
        return self.stages if business == WIDE else 3


@functools.lru_cache(200_000)
def key(kind: str, *place: int) -> str:
    """The id of a row: spread like any random one, and the same wherever the row is named."""
    return str(uuid.UUID(hashlib.blake2b(f"{kind}{place}".encode(), digest_size=16).hexdigest()))


def tables(plan: Plan, encryption_keys: tuple[tuple[str, bytes], ...]) -> Iterator[tuple[str, str, Lines]]:
    """Each table with its columns and its lines, parents first."""
    vault = _Vault(plan, encryption_keys)
    yield "users", "user_id", _users(plan)
    yield "businesses", "business_id, owner_id, business_name", _businesses(plan)
    yield "data_keys", "business_id, data_key_id, wrapped, wrapping_key_id", vault.lines()
    yield "memberships", "business_id, user_id, role, created_at", _memberships(plan)
    yield "stages", _STAGE, _stages(plan)
    yield "conversations", _CONVERSATION, _conversations(plan, vault)
    yield "turns", _TURN, _turns(plan)
    yield "messages", _MESSAGE, _messages(plan, vault)
    yield "turn_steps", _STEP, _steps(plan, vault)
    yield "events", _EVENT, _events(plan)


_STAGE = (
    "business_id, stage_id, stage_name, stage_type, stage_description, stage_selection, data_extraction, "
    "data_retrieval, response_generation"
)
_CONVERSATION = (
    "business_id, conversation_id, user_id, stage_id, session_id, status, data, missing_fields, turn_count, "
    "start_time, last_updated"
)
_TURN = (
    "business_id, turn_id, conversation_id, number, state, error_code, stage_id, stage_name, confidence, model, "
    "degraded, prompt_tokens, completion_tokens, cost_usd, timings_ms, entered_stage, missing_fields, "
    "conversation_status, created_at, finished_at"
)
_MESSAGE = "business_id, message_id, conversation_id, turn_id, sender_type, message_content, created_at"
_STEP = (
    "business_id, turn_id, position, kind, outcome, stage_name, model, attempts, prompt_tokens, completion_tokens, "
    "cost_usd, latency_ms, content, created_at"
)
_EVENT = "business_id, event_id, event_type, event_timestamp, user_id, conversation_id, event_data, received_at"


class _Vault:
    """A real data key for each business."""

    def __init__(self, plan: Plan, encryption_keys: tuple[tuple[str, bytes], ...]) -> None:
        self._ring = Keyring.of(encryption_keys)
        self._keys = [os.urandom(32) for _ in range(plan.businesses)]
        self.ciphers = [
            Cipher(key("business", n), {key("key", n): AESGCM(secret)}, key("key", n))
            for n, secret in enumerate(self._keys)
        ]

    def lines(self) -> Lines:
        for n, secret in enumerate(self._keys):
            wrapped = self._ring.wrap(secret, key("business", n))
            yield _line(key("business", n), key("key", n), _bytes(wrapped), self._ring.active_id)

    def sealed(self, business: int, table: str, column: str, row_id: str, value: Any) -> str:
        return _bytes(self.ciphers[business].encrypt(table, column, row_id, value))


def _users(plan: Plan) -> Lines:
    for n in range(plan.businesses):
        yield _line(key("owner", n))
    for each in plan.conversations:
        yield _line(key("user", each.n))


def _businesses(plan: Plan) -> Lines:
    for n in range(plan.businesses):
        yield _line(key("business", n), key("owner", n), f"Business {n}")


def _memberships(plan: Plan) -> Lines:
    for n in range(plan.businesses):
        yield _line(key("business", n), key("owner", n), "owner", plan.begin)
    for each in plan.conversations:
        yield _line(key("business", each.business), key("user", each.n), "customer", each.start)


def _stages(plan: Plan) -> Lines:
    field = {"type": "object", "properties": {"order_number": {"type": "string"}}, "required": ["order_number"]}
    sections: list[dict[str, Any]] = [
        {"prompt": {"template_id": "icmp.stage_selection"}, "context_data_fields": {}, "next_stages": None},
        {"prompt": {"template_id": "icmp.data_extraction"}, "require_quote": False, "output_schema": field},
        {"method": "none", "config": {}},
        {"prompt": {"template_id": "icmp.response_generation"}, "fallback_text": "One moment please."},
    ]
    for business in range(plan.businesses):
        for n in range(plan.stages_of(business)):
            name, described = f"stage_{n}", f"The customer asks about matter {n}."
            ids = key("business", business), key("stage", business, n)
            yield _line(*ids, name, "information", described, *map(_json, sections))


def _conversations(plan: Plan, vault: _Vault) -> Lines:
    for each in plan.conversations:
        conversation_id = key("conversation", each.n)
        data = vault.sealed(each.business, "conversations", "data", conversation_id, {"order_number": "4411"})
        end = each.start + timedelta(seconds=30 * each.turns)
        yield _line(
            key("business", each.business), conversation_id, key("user", each.n), _stage(plan, each, each.turns)[0],
            f"session-{each.n}", each.status, data, "[]", each.turns, each.start, end,
        )  # fmt: skip


def _stage(plan: Plan, conversation: Conversation, number: int) -> tuple[str, str]:
    """Id and name of the stage of a turn: another one every three turns."""
    place = (conversation.n + (number - 1) // 3) % plan.stages_of(conversation.business)
    return key("stage", conversation.business, place), f"stage_{place}"


def _turns(plan: Plan) -> Lines:
    chance = random.Random(9)
    for each in plan.conversations:
        for number in range(1, each.turns + 1):
            state = "failed" if chance.random() < 0.01 else "done"
            at = each.start + timedelta(seconds=30 * (number - 1))
            total = round(chance.lognormvariate(6.5, 0.4), 1)
            tokens = chance.randint(500, 3000), chance.randint(20, 200)
            entered, missing = number % 3 == 1, ["order_number"] if number % 3 else []
            after = each.status if number == each.turns else "active"
            yield _line(
                key("business", each.business), key("turn", each.n, number), key("conversation", each.n), number, state,
                "LLM_UNAVAILABLE" if state == "failed" else None, *_stage(plan, each, number), 0.9,
                MODELS[number % 2], chance.random() < 0.02, *tokens, _cost(chance, tokens),
                _json({"total": total}), entered and state == "done", _json(missing),
                after if state == "done" else None, at, at + timedelta(milliseconds=total),
            )  # fmt: skip


def _cost(chance: random.Random, tokens: tuple[int, int]) -> float | None:
    """One model in a thousand has no known price."""
    return None if chance.random() < 0.001 else round((tokens[0] + 6 * tokens[1]) * 7.5e-7, 8)


def _messages(plan: Plan, vault: _Vault) -> Lines:
    for each in plan.conversations:
        for number in range(1, each.turns + 1):
            at = each.start + timedelta(seconds=30 * (number - 1))
            for later, sender in enumerate(("user", "ai")):
                message_id = key("message", each.n, number, later)
                content = vault.sealed(each.business, "messages", "message_content", message_id, _SAYING)
                yield _line(
                    key("business", each.business), message_id, key("conversation", each.n),
                    key("turn", each.n, number), sender, content, at + timedelta(seconds=later),
                )  # fmt: skip


def _steps(plan: Plan, vault: _Vault) -> Lines:
    chance = random.Random(10)
    words = (_SAYING * (plan.ledger_bytes // len(_SAYING) + 1))[: plan.ledger_bytes]
    content = {"prompt": [{"role": "user", "content": words}], "raw_outputs": [], "output": None, "verdict": None}
    for each in plan.conversations:
        for number in range(1, each.turns + 1):
            turn_id = key("turn", each.n, number)
            at = each.start + timedelta(seconds=30 * (number - 1) + 1)
            for place, kind in enumerate(STEPS):
                tokens = chance.randint(200, 1000), chance.randint(10, 100)
                sealed = vault.sealed(each.business, "turn_steps", "content", f"{turn_id}:{place}", content)
                yield _line(
                    key("business", each.business), turn_id, place, kind, "ok", _stage(plan, each, number)[1],
                    MODELS[place % 2], 1, *tokens, _cost(chance, tokens), 200.0, sealed, at,
                )  # fmt: skip


def _events(plan: Plan) -> Lines:
    chance = random.Random(11)
    step = timedelta(days=plan.days) / (plan.events + 1)
    for n in range(plan.events):
        at = plan.begin + n * step
        user = key("user", chance.randrange(len(plan.conversations))) if chance.random() < 0.5 else None
        yield _line(
            key("business", plan.chosen(chance)), key("event", n), chance.choice(EVENT_TYPES), at, user, None,
            _json({"page": f"/books/{n % 1000}"}), at,
        )  # fmt: skip


def _line(*values: Any) -> str:
    return ",".join(["" if value is None else str(value) for value in values]) + "\n"


def _json(value: Any) -> str:
    return '"' + json.dumps(value).replace('"', '""') + '"'


def _bytes(value: bytes) -> str:
    return "\\x" + value.hex()
