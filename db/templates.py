"""Prompt templates: a business's own and the platform's global ones, every version kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from db import Connection, NotFound, execute, fetch_all, fetch_one, json_value
from db.paging import Page

COLUMNS = "template_id, business_id, kind, version, text, input_variables, created_at"
_EVERY = f"""
    SELECT {COLUMNS} FROM templates WHERE business_id = %(business_id)s
    UNION ALL
    SELECT template_id, NULL::uuid, kind, version, text, input_variables, created_at FROM global_templates
"""


@dataclass(frozen=True)
class Template:
    """One version of a prompt text; `business_id` is None for a global one."""

    template_id: str
    business_id: str | None
    kind: str
    version: int
    text: str
    input_variables: list[str]
    created_at: datetime


@dataclass(frozen=True)
class Use:
    """A stage that names a template, for which prompt, and the names that its section defines."""

    stage_name: str
    kind: str
    defined: dict[str, str]


def insert(conn: Connection, business_id: str | None, fields: Mapping[str, Any]) -> Template:
    """A new version (template_id, kind, version, text, input_variables); raises Conflict when it exists."""
    values = dict(fields) | {
        "business_id": business_id,
        "input_variables": json_value(fields["input_variables"]),
    }
    columns = "template_id, kind, version, text, input_variables"
    places = "%(template_id)s, %(kind)s, %(version)s, %(text)s, %(input_variables)s"
    if business_id is None:
        sql = f"INSERT INTO global_templates ({columns}) VALUES ({places}) RETURNING created_at"
    else:
        sql = f"INSERT INTO templates (business_id, {columns}) VALUES (%(business_id)s, {places}) RETURNING created_at"
    row = fetch_one(conn, sql, values)
    if row is None:
        raise NotFound
    return Template(business_id=business_id, created_at=row[0], **fields)


def find(conn: Connection, business_id: str | None, template_id: str, *, version: int | None = None) -> Template | None:
    """The business's own template of that name, else the global one; the newest version unless one is named."""
    row = fetch_one(
        conn,
        f"SELECT {COLUMNS} FROM (SELECT {COLUMNS}, rank() OVER (ORDER BY business_id NULLS LAST) AS place"
        f" FROM ({_EVERY}) every WHERE template_id = %(template_id)s) ranked WHERE place = 1"
        " AND (%(version)s::integer IS NULL OR version = %(version)s) ORDER BY version DESC LIMIT 1",
        {"business_id": business_id, "template_id": template_id, "version": version},
    )
    return None if row is None else Template(*row)


def latest(conn: Connection, business_id: str) -> dict[str, Template]:
    """Every name the business can use, with the newest version of its own template before the global one."""
    rows = fetch_all(
        conn,
        f"SELECT DISTINCT ON (template_id) {COLUMNS} FROM ({_EVERY}) every"
        " ORDER BY template_id, business_id NULLS LAST, version DESC",
        {"business_id": business_id},
    )
    return {row[0]: Template(*row) for row in rows}


def list_page(conn: Connection, business_id: str | None, page: Page) -> list[Template]:
    """The newest version of each of the business's own templates and of each global one, newest first."""
    at, key = page.after or (None, None)
    rows = fetch_all(
        conn,
        f"SELECT {COLUMNS} FROM (SELECT DISTINCT ON (template_id, business_id) {COLUMNS} FROM ({_EVERY}) every"
        " ORDER BY template_id, business_id, version DESC) newest"
        " WHERE %(at)s::timestamptz IS NULL"
        " OR (created_at, template_id || coalesce(business_id::text, '')) < (%(at)s, %(key)s)"
        " ORDER BY created_at DESC, template_id || coalesce(business_id::text, '') DESC"
        " LIMIT %(limit)s OFFSET %(offset)s",
        {"business_id": business_id, "at": at, "key": key, "limit": page.limit, "offset": page.offset},
    )
    return [Template(*row) for row in rows]


def delete(conn: Connection, business_id: str | None, template_id: str) -> None:
    """All versions, if there are any."""
    if business_id is None:
        execute(conn, "DELETE FROM global_templates WHERE template_id = %s", [template_id])
    else:
        execute(conn, "DELETE FROM templates WHERE business_id = %s AND template_id = %s", [business_id, template_id])


def users_of(conn: Connection, business_id: str, template_id: str) -> list[str]:
    """Names of the business's stages that name this template."""
    return list(dict.fromkeys(use.stage_name for use in uses_of(conn, business_id, template_id)))


def count_uses(conn: Connection, template_id: str) -> int:
    """How many stages of all businesses name this template."""
    row = fetch_one(conn, "SELECT count_template_uses(%s)", [template_id])
    return int(row[0]) if row else 0


def uses_of(conn: Connection, business_id: str, template_id: str) -> list[Use]:
    """Every use of the template by a stage of the business."""
    rows = fetch_all(
        conn,
        "SELECT s.stage_name, kind, coalesce(section -> 'context_data_fields', '{}') FROM stages s, LATERAL (VALUES"
        " ('stage_selection', s.stage_selection), ('data_extraction', s.data_extraction),"
        " ('response_generation', s.response_generation)) sections (kind, section)"
        " WHERE s.business_id = %s AND section #>> '{prompt,template_id}' = %s ORDER BY s.stage_name",
        [business_id, template_id],
    )
    return [Use(*row) for row in rows]
