"""Reading the audit log."""

from __future__ import annotations

from typing import Any

from flask import Blueprint

import auth
from api import contract, paging
from api.contract import Reply
from api.parts import parts
from db import audit

routes = Blueprint("audit", __name__)
_FILTERS: dict[str, dict[str, Any]] = {
    "action": {"type": "string", "maxLength": 100, "description": "Such as stages.update."},
    "actor": {"type": "string", "enum": ["master", "business", "user", "nobody", "command"]},
    "since": paging.TIME,
    "until": paging.TIME,
}


@routes.get("/audit")
@auth.allow_global
@contract.contract(gives="audit_entry", many=True, query=paging.QUERY | _FILTERS)
def get_audit(business_id: str | None, query: dict[str, Any]) -> Reply:
    """What was changed and by whom, newest first.

    The master without a business sees every use of the master key, and what concerns the platform."""
    page, filters = paging.page_of(query), paging.filters_of(query)
    # Not `tenant`: the trail of a deleted business stays readable for the master.
    with parts().database.transaction(business_id) as conn:
        if business_id is None:
            rows = audit.list_platform(conn, filters, page)
        else:
            rows = audit.list_page(conn, business_id, filters, page)
    return paging.listed([_shown(row) for row in rows], page, lambda row: (row["created_at"], row["audit_id"]))


def _shown(entry: audit.Entry) -> dict[str, Any]:
    is_platform = entry.business_id == audit.PLATFORM
    return vars(entry) | {"business_id": None if is_platform else entry.business_id}
