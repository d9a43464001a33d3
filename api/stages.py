"""Stages: the situations of a business's conversations."""

from __future__ import annotations

import uuid
from typing import Any

from flask import Blueprint

import auth
import db
from api import contract, paging, stage_forms, stage_secrets, trail
from api.contract import Reply
from api.errors import InvalidRequest
from api.parts import changed_setup, cipher, tenant
from api.templates import checked_variables
from db import agents, stages, templates

routes = Blueprint("stages", __name__)
_PLAIN = ("agent_id", "stage_name", "stage_type", "stage_description", "stage_selection_example_conversations")


@routes.post("/stages")
@auth.require_business_api_key
@contract.contract(takes="stage_create", gives="stage", status=201)
def post_stage(business_id: str, body: dict[str, Any]) -> Reply:
    """Create a stage, in the full form or in the flat form of three prompt texts."""
    stage_id = trail.about(str(uuid.uuid4()))
    flat = stage_forms.flat_texts(body, is_new=True)
    given = {name: stage_forms.completed(name, body.get(name)) for name in stage_forms.SECTIONS}
    sections = given | {kind: stage_forms.flat_section(kind, stage_id) for kind in flat}
    plain = {"agent_id": None, "stage_selection_example_conversations": ""} | _plain(body)
    with changed_setup(business_id) as conn:
        secret = _prepare(conn, business_id, stage_id, flat, plain | sections)
        stages.insert(conn, business_id, plain | sections | secret | {"stage_id": stage_id})
        stage = _shown(conn, business_id, stage_id)
    return Reply(stage, headers={"Location": f"/api/v1/stages/{stage_id}"})


@routes.get("/stages")
@auth.require_business_api_key
@contract.contract(gives="stage", many=True, query=paging.QUERY)
def get_stages(business_id: str, query: dict[str, Any]) -> Reply:
    """The business's stages, newest first."""
    page = paging.page_of(query)
    with tenant(business_id) as conn:
        rows = stage_secrets.shown(conn, business_id, stages.list_page(conn, business_id, page))
    return paging.listed(rows, page, lambda row: (row.created_at, row.stage_id))


@routes.get("/stages/<stage_id>")
@auth.require_business_api_key
@contract.contract(gives="stage")
def get_stage(business_id: str, stage_id: str) -> stages.Stage:
    """One stage."""
    with tenant(business_id) as conn:
        return _shown(conn, business_id, stage_id)


@routes.patch("/stages/<stage_id>")
@auth.require_business_api_key
@contract.contract(takes="stage_update", gives="stage")
def patch_stage(business_id: str, stage_id: str, body: dict[str, Any]) -> stages.Stage:
    """Replace the named fields of a stage."""
    flat = stage_forms.flat_texts(body, is_new=False)
    given = {name: stage_forms.completed(name, body[name]) for name in stage_forms.SECTIONS if name in body}
    with changed_setup(business_id) as conn:
        old = stages.get(conn, business_id, stage_id)
        sections = given | {kind: stage_forms.flat_section(kind, stage_id, getattr(old, kind)) for kind in flat}
        stored = {name: getattr(old, name) for name in stage_forms.SECTIONS}
        secret = _prepare(conn, business_id, stage_id, flat, _plain(body) | sections, stored)
        stages.update(conn, business_id, stage_id, _plain(body) | sections | secret)
        if body.get("stage_name", old.stage_name) != old.stage_name:
            _follow_rename(conn, business_id, old.stage_name, body["stage_name"])
        return _shown(conn, business_id, stage_id)


@routes.delete("/stages/<stage_id>")
@auth.require_business_api_key
@contract.contract(status=204)
def delete_stage(business_id: str, stage_id: str) -> None:
    """Delete a stage and the templates that its flat form made; conversations in it go on without a stage."""
    with changed_setup(business_id) as conn:
        stages.delete(conn, business_id, stage_id)
        for kind in stage_forms.KINDS:
            template_id = stage_forms.template_id_of(stage_id, kind)
            if not templates.users_of(conn, business_id, template_id):
                templates.delete(conn, business_id, template_id)


def _shown(conn: db.Connection, business_id: str, stage_id: str) -> stages.Stage:
    return stage_secrets.shown(conn, business_id, [stages.get(conn, business_id, stage_id)])[0]


def _plain(body: dict[str, Any]) -> dict[str, Any]:
    return {name: body[name] for name in _PLAIN if name in body}


def _prepare(
    conn: db.Connection,
    business_id: str,
    stage_id: str,
    flat: dict[str, str],
    values: dict[str, Any],
    stored: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Save the flat form's templates, check everything the stage names, and take the secrets out of `values`."""
    for kind, text in flat.items():
        _save_text(conn, business_id, stage_forms.template_id_of(stage_id, kind), kind, text)
    agent_id = values.get("agent_id")
    if agent_id is not None and not agents.exists(conn, business_id, agent_id):
        raise InvalidRequest(f"agent_id: {agent_id} is no agent of this business", "Name an agent, or null")
    sections = {name: values[name] for name in stage_forms.SECTIONS if name in values}
    stage_forms.check(sections, templates.latest(conn, business_id), stored)
    if "data_retrieval" not in sections:
        return {}
    config = sections["data_retrieval"]["config"]
    headers = stage_secrets.wanted(conn, business_id, stage_id, config)
    config.pop(stage_secrets.NAME, None)
    sealed = cipher(conn, business_id).encrypt("stages", "secret_headers", stage_id, headers) if headers else None
    return {"secret_headers": sealed}


def _follow_rename(conn: db.Connection, business_id: str, old_name: str, new_name: str) -> None:
    """The stages that name this one as what may follow know it by its new name."""
    for stage in stages.list_every(conn, business_id):
        names = stage.stage_selection["next_stages"]
        if names and old_name in names:
            renamed = [new_name if name == old_name else name for name in names]
            section = stage.stage_selection | {"next_stages": list(dict.fromkeys(renamed))}
            stages.update(conn, business_id, stage.stage_id, {"stage_selection": section})


def _save_text(conn: db.Connection, business_id: str, template_id: str, kind: str, text: str) -> None:
    old = templates.find(conn, business_id, template_id)
    fields = {
        "template_id": template_id,
        "kind": kind,
        "version": 1 if old is None else old.version + 1,
        "text": text,
        "input_variables": checked_variables(text, None),
    }
    templates.insert(conn, business_id, fields)
