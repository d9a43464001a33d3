"""Messages: the utterances of a conversation, stored encrypted."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from db import Connection, NotFound, execute, fetch_all, fetch_one
from db.cipher import Cipher
from db.paging import Page, clause

COLUMNS = "message_id, business_id, conversation_id, turn_id, sender_type, message_content, metadata, created_at"


@dataclass(frozen=True)
class Message:
    """One utterance; `sender_type` is user, ai or operator."""

    message_id: str
    business_id: str
    conversation_id: str
    turn_id: str | None
    sender_type: str
    message_content: str
    metadata: dict[str, Any]
    created_at: datetime


class Said(NamedTuple):
    """An utterance with its place among all messages, as the history of a turn knows it. A tuple: a turn makes a
    hundred of them, each in less than half the time that a frozen dataclass takes."""

    sequence: int
    turn_id: str | None
    sender_type: str
    message_content: str


def insert(conn: Connection, cipher: Cipher, message: Message) -> Message:
    """Store a message; the same with the database's time."""
    row = fetch_one(conn, f"{_INSERT} RETURNING created_at", _values(cipher, message))
    if row is None:
        raise NotFound
    return Message(**{**vars(message), "created_at": row[0]})


def store(conn: Connection, cipher: Cipher, message: Message) -> None:
    """Store a message whose time nobody asks for."""
    execute(conn, _INSERT, _values(cipher, message))


_INSERT = (
    "INSERT INTO messages (business_id, message_id, conversation_id, turn_id, sender_type, message_content, metadata)"
    " VALUES (%s, %s, %s, %s, %s, %s, %s)"
)


def _values(cipher: Cipher, message: Message) -> list[Any]:
    return [
        message.business_id,
        message.message_id,
        message.conversation_id,
        message.turn_id,
        message.sender_type,
        *ciphertexts(cipher, message),
    ]


def ciphertexts(cipher: Cipher, message: Message) -> tuple[bytes, bytes | None]:
    """What is stored of a message's content and metadata."""
    content = cipher.encrypt("messages", "message_content", message.message_id, message.message_content)
    metadata = message.metadata
    return content, cipher.encrypt("messages", "metadata", message.message_id, metadata) if metadata else None


def get(conn: Connection, business_id: str, cipher: Cipher, message_id: str) -> Message:
    """The message; raises NotFound."""
    row = fetch_one(
        conn, f"SELECT {COLUMNS} FROM messages WHERE business_id = %s AND message_id = %s", [business_id, message_id]
    )
    if row is None:
        raise NotFound
    return _message(cipher, row)


def list_page(conn: Connection, business_id: str, cipher: Cipher, conversation_id: str, page: Page) -> list[Message]:
    """A page of a conversation's messages, newest first. The cursor's sort value is the message's place in it."""
    end, values = clause(page, "sequence")
    rows = fetch_all(
        conn,
        f"SELECT {COLUMNS} FROM messages WHERE business_id = %(business_id)s"
        f" AND conversation_id = %(conversation_id)s{end}",
        values | {"business_id": business_id, "conversation_id": conversation_id},
    )
    return [_message(cipher, row) for row in rows]


def list_said(conn: Connection, business_id: str, cipher: Cipher, conversation_id: str, most: int) -> list[Said]:
    """The newest utterances of a conversation, oldest first; none of turns that are still open."""
    rows = fetch_all(
        conn,
        "SELECT message_id, turn_id, sender_type, message_content, sequence FROM messages"
        " WHERE business_id = %(business_id)s AND conversation_id = %(conversation_id)s"
        " AND (turn_id IS NULL OR turn_id <> ALL (ARRAY("
        "  SELECT t.turn_id FROM turns t WHERE t.business_id = %(business_id)s"
        "  AND t.conversation_id = %(conversation_id)s AND t.state = 'open')))"
        " ORDER BY sequence DESC LIMIT %(most)s",
        {"business_id": business_id, "conversation_id": conversation_id, "most": most},
    )
    return [said(cipher, *row) for row in reversed(rows)]


def said(cipher: Cipher, message_id: str, turn_id: str | None, sender_type: str, content: bytes, sequence: int) -> Said:
    """An utterance from its columns."""
    return Said(sequence, turn_id, sender_type, cipher.decrypt("messages", "message_content", message_id, content))


def list_asked(conn: Connection, business_id: str, cipher: Cipher, turn_id: str) -> list[Message]:
    """The customer's messages that a turn answers, oldest first."""
    rows = fetch_all(
        conn,
        f"SELECT {COLUMNS} FROM messages WHERE business_id = %s AND turn_id = %s AND sender_type = 'user'"
        " ORDER BY sequence",
        [business_id, turn_id],
    )
    return [_message(cipher, row) for row in rows]


def sequence(conn: Connection, business_id: str, message_id: str) -> int:
    """The place of a message among all messages."""
    row = fetch_one(
        conn, "SELECT sequence FROM messages WHERE business_id = %s AND message_id = %s", [business_id, message_id]
    )
    if row is None:
        raise NotFound
    return int(row[0])


def _message(cipher: Cipher, row: tuple[Any, ...]) -> Message:
    record = dict(zip(COLUMNS.split(", "), row, strict=True))
    for column in ("message_content", "metadata"):
        if record[column] is not None:
            record[column] = cipher.decrypt("messages", column, record["message_id"], record[column])
    return Message(**{**record, "metadata": record["metadata"] or {}})
