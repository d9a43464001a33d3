"""What was asked with each message, and what was answered: kept for a day, so that the same key gets the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from db import Connection, Database, execute
from db.cipher import Cipher

KEPT_HOURS = 24.0


@dataclass(frozen=True)
class Earlier:
    """A message that came with the same key before."""

    message_id: str
    conversation_id: str
    turn_id: str | None
    number: int
    state: str | None
    error_code: str | None
    fingerprint: memoryview


def insert(
    conn: Connection, business_id: str, message_id: str, *, key_hash: bytes | None, fingerprint: bytes | None
) -> None:
    """A request that has no answer yet."""
    execute(
        conn,
        "INSERT INTO message_requests (business_id, message_id, key_hash, fingerprint) VALUES (%s, %s, %s, %s)",
        [business_id, message_id, key_hash, fingerprint],
    )


def answer(conn: Connection, business_id: str, cipher: Cipher, status: int, bodies: Mapping[str, str]) -> None:
    """Keep the answer of each message: message_id → the body as it is sent."""
    for message_id, body in bodies.items():
        execute(
            conn,
            "UPDATE message_requests SET status = %s, answer = %s WHERE business_id = %s AND message_id = %s",
            [
                status,
                cipher.encrypt("message_requests", "answer", message_id, body),
                business_id,
                message_id,
            ],
        )


def read(cipher: Cipher, message_id: str, answer: bytes) -> str:
    """The body that was kept."""
    body: str = cipher.decrypt("message_requests", "answer", message_id, answer)
    return body


def forget(database: Database, most: int) -> None:
    """Delete the oldest requests of all businesses that are older than KEPT_HOURS, about `most` of them."""
    for (business_id,) in database.once(None, "SELECT * FROM find_old_message_requests(%s, %s)", [KEPT_HOURS, most]):
        database.once(
            business_id,
            "DELETE FROM message_requests WHERE business_id = %(business_id)s AND message_id IN ("
            " SELECT message_id FROM message_requests WHERE business_id = %(business_id)s"
            "  AND created_at < clock_timestamp() - make_interval(secs => %(hours)s * 3600) LIMIT %(most)s)",
            {"business_id": business_id, "hours": KEPT_HOURS, "most": most},
        )
