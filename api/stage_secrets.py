"""The secret headers of a stage's look-up: told by name alone, and kept where null stands for the value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import db
from api.errors import InvalidRequest
from api.parts import cipher
from db import lookups
from db.stages import Stage

NAME = "secret_headers"


def shown(conn: db.Connection, business_id: str, rows: Sequence[Stage]) -> list[Stage]:
    """The stages with the names of their secret headers, null for each value."""
    calling = [row.stage_id for row in rows if row.data_retrieval["method"] == "api_call"]
    found = lookups.list_secret_headers(conn, business_id, cipher(conn, business_id), calling) if calling else {}
    return [_with_names(row, found[row.stage_id]) if row.stage_id in found else row for row in rows]


def wanted(
    conn: db.Connection, business_id: str, stage_id: str | None, config: Mapping[str, Any], place: str = ""
) -> dict[str, str]:
    """The secret headers to store: as given, or as stored where null stands. Raises InvalidRequest."""
    given = config.get(NAME) or {}
    kept = _kept(conn, business_id, stage_id, config["url"]) if None in given.values() else {}
    for header, value in given.items():
        if value is None and header not in kept:
            raise InvalidRequest(
                f"{place}data_retrieval.config.{NAME}.{header}: null keeps a value, but none is stored for this stage"
                " and url",
                "Send the value",
            )
    return {header: kept[header] if value is None else value for header, value in given.items()}


def without_known(
    conn: db.Connection, business_id: str, stage_id: str | None, look_up: Mapping[str, Any]
) -> Mapping[str, Any]:
    """The look-up with null for each secret that is stored just so: to send it again changes nothing."""
    config = look_up["config"]
    given = config.get(NAME) or {}
    kept = _kept(conn, business_id, stage_id, config["url"]) if any(given.values()) else {}
    known = {header: None for header, value in given.items() if value is not None and kept.get(header) == value}
    return {**look_up, "config": {**config, NAME: {**given, **known}}} if known else look_up


def _kept(conn: db.Connection, business_id: str, stage_id: str | None, url: str) -> Mapping[str, str]:
    """Secrets are for the address they were given for, path included: a server may echo what it is sent elsewhere.
    Whoever changes the address has to know them."""
    if stage_id is None:
        return {}
    stored_url, secrets = lookups.find_api_call(conn, business_id, cipher(conn, business_id), stage_id)
    return secrets if url == stored_url else {}


def _with_names(row: Stage, secrets: Mapping[str, str]) -> Stage:
    config = row.data_retrieval["config"] | {NAME: dict.fromkeys(secrets)}
    return replace(row, data_retrieval=row.data_retrieval | {"config": config})
