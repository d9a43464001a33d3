"""A customer's message with all that its answer needs, stored and read in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from db import Connection, NotFound, fetch_one
from db.cipher import Cipher
from db.conversations import COLUMNS as CONVERSATION_COLUMNS
from db.conversations import Conversation, read
from db.message_requests import Earlier
from db.messages import Message, Said, ciphertexts, said
from db.turn_leases import Claim
from db.users import read_contact

_OWN = "verdict, message_id, turn_id, number, epoch, attempts, others, state, error_code, fingerprint"
_SETUP = "contact, setup_version, templates, newest_template"
_HISTORY = "history_ids, history_turns, history_senders, history_contents, history_sequences"
_COLUMNS = ", ".join((_OWN, CONVERSATION_COLUMNS, _SETUP, _HISTORY))
_NAMES = _COLUMNS.split(", ")


@dataclass(frozen=True)
class Sent:
    """A message and who sent it. Its `conversation_id` is not known yet; its `turn_id` is that of a turn to open."""

    message: Message
    user_id: str
    key_hash: bytes | None
    fingerprint: bytes | None


@dataclass(frozen=True)
class Wanted:
    """Where a message wants to go: `conversation_id`, else the open one of `session_id`, else the user's latest active
    one touched within `minutes`, else a new one of `new_conversation_id` and `new_session_id`."""

    conversation_id: str | None
    session_id: str | None
    minutes: int
    new_conversation_id: str
    new_session_id: str


@dataclass(frozen=True)
class Terms:
    """Who claims the turn for how long; how many open turns may be before it in its conversation, how many bytes of
    ciphertext are answered together, how many messages of the history it reads."""

    owner: str
    lease_seconds: float
    most_waiting: int
    most_merged_bytes: int
    most_history: int


@dataclass(frozen=True)
class Found:
    """What became of a message: `verdict` as the function accept_message tells it, and the row's other columns."""

    verdict: str
    row: dict[str, Any]

    @property
    def setup_version(self) -> tuple[int, int, datetime | None]:
        """As businesses.setup_version gives it."""
        return self.row["setup_version"], self.row["templates"], self.row["newest_template"]

    @property
    def earlier(self) -> Earlier:
        """The message of the same key, when this one is repeated."""
        names = ("message_id", "conversation_id", "turn_id", "number", "state", "error_code", "fingerprint")
        return Earlier(*(self.row[name] for name in names))

    @property
    def claim(self) -> Claim:
        """The message's turn; its epoch is 0 while others are before it."""
        names = ("business_id", "turn_id", "conversation_id", "number", "epoch", "attempts")
        return Claim(*(self.row[name] for name in names))

    def conversation(self, cipher: Cipher) -> Conversation:
        """As it is now."""
        return read(cipher, tuple(self.row[name] for name in CONVERSATION_COLUMNS.split(", ")))

    def contact(self, cipher: Cipher) -> dict[str, Any]:
        """What the business knows of the customer, perhaps nothing."""
        return read_contact(cipher, self.row["user_id"], self.row["contact"])

    def history(self, cipher: Cipher) -> list[Said]:
        """What was said before, in no order."""
        columns: Sequence[Sequence[Any]] = [self.row[name] or () for name in _HISTORY.split(", ")]
        return [said(cipher, *row) for row in zip(*columns, strict=True)]


def accept(conn: Connection, cipher: Cipher, sent: Sent, wanted: Wanted, terms: Terms) -> Found:
    """Store the message, if it can be. Whoever shares the transaction finds the conversation and the key locked."""
    message = sent.message
    content, metadata = ciphertexts(cipher, message)
    row = fetch_one(
        conn,
        f"SELECT {_COLUMNS} FROM accept_message("
        "%(business_id)s, %(user_id)s, %(message_id)s, %(turn_id)s, %(content)s, %(metadata)s, %(key_hash)s,"
        " %(fingerprint)s, %(conversation_id)s, %(session_id)s, %(new_conversation_id)s, %(new_session_id)s,"
        " %(minutes)s, %(owner)s, %(lease_seconds)s, %(most_waiting)s, %(most_merged_bytes)s, %(most_history)s)",
        {
            **vars(wanted),
            **vars(terms),
            "business_id": message.business_id,
            "user_id": sent.user_id,
            "message_id": message.message_id,
            "turn_id": message.turn_id,
            "content": content,
            "metadata": metadata,
            "key_hash": sent.key_hash,
            "fingerprint": sent.fingerprint,
        },
    )
    if row is None:
        raise NotFound
    named = dict(zip(_NAMES, row, strict=True))
    return Found(named["verdict"], named)
