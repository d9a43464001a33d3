"""Prompt templates: a business's own, and the platform's global ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from flask import Blueprint

import auth
import db
from api import contract, paging, stage_forms, trail
from api.contract import Reply
from api.errors import InvalidRequest
from api.parts import changed_setup, platform, tenant
from db import config, templates
from nlp import templates as texts

routes = Blueprint("templates", __name__)
_VERSION = {"version": {"type": "integer", "minimum": 1, "maximum": 2_000_000_000}}


@routes.post("/templates")
@auth.allow_global
@contract.contract(takes="template_create", gives="template", status=201)
def post_template(business_id: str | None, body: dict[str, Any]) -> Reply:
    """Save a new template; the master key without a business saves a global one."""
    if stage_forms.is_stages_own(body["template_id"]):
        raise InvalidRequest("template_id: such a name belongs to a stage's own text", "Choose another template_id")
    fields = {
        "template_id": trail.about(body["template_id"]),
        "kind": body["kind"],
        "version": 1,
        "text": body["text"],
        "input_variables": checked_variables(body["text"], body.get("input_variables")),
    }
    with _changed(business_id) as conn:
        # It may take the place of a global one that stages use already.
        _check_stages(conn, business_id, fields)
        if business_id is not None:
            check_hidden(templates.find(conn, None, fields["template_id"]), fields["kind"])
        template = templates.insert(conn, business_id, fields)
    return Reply(template, headers={"Location": f"/api/v1/templates/{template.template_id}"})


@routes.get("/templates")
@auth.allow_global
@contract.contract(gives="template", many=True, query=paging.QUERY)
def get_templates(business_id: str | None, query: dict[str, Any]) -> Reply:
    """The newest versions of the business's own and of the global templates."""
    page = paging.page_of(query)
    with _scope(business_id) as conn:
        rows = templates.list_page(conn, business_id, page)
    return paging.listed(rows, page, lambda row: (row.created_at, row.template_id + (row.business_id or "")))


@routes.get("/templates/<template_id>")
@auth.allow_global
@contract.contract(gives="template", query=_VERSION)
def get_template(business_id: str | None, template_id: str, query: dict[str, Any]) -> templates.Template:
    """A template, in its newest version unless one is named; the business's own hides the global one."""
    with _scope(business_id) as conn:
        found = templates.find(conn, business_id, template_id, version=query.get("version"))
    if found is None:
        raise db.NotFound
    return found


@routes.patch("/templates/<template_id>")
@auth.allow_global
@contract.contract(takes="template_update", gives="template")
def patch_template(business_id: str | None, template_id: str, body: dict[str, Any]) -> templates.Template:
    """Make a new version with the named fields replaced."""
    with _changed(business_id) as conn:
        old = _own(conn, business_id, template_id)
        text = body.get("text", old.text)
        fields = {
            "template_id": template_id,
            "kind": old.kind,
            "version": old.version + 1,
            "text": text,
            "input_variables": _changed_variables(text, body.get("input_variables"), old),
        }
        if business_id is None:
            _check_all_stages(conn, old, fields["input_variables"])
        _check_stages(conn, business_id, fields)
        return templates.insert(conn, business_id, fields)


@routes.delete("/templates/<template_id>")
@auth.allow_global
@contract.contract(status=204)
def delete_template(business_id: str | None, template_id: str) -> None:
    """Delete a template with all its versions, unless a stage needs it: a global one of the same name takes over."""
    with _changed(business_id) as conn:
        _own(conn, business_id, template_id)
        _check_unused(conn, business_id, template_id)
        templates.delete(conn, business_id, template_id)


def _check_unused(conn: db.Connection, business_id: str | None, template_id: str) -> None:
    if business_id is None:
        if template_id.startswith("icmp."):
            raise db.Conflict(f"{template_id} is the platform's default: change it instead")
        uses = templates.count_uses(conn, template_id)
        if uses:
            raise db.Conflict(f"{template_id} is used by {uses} stages")
        return
    heir = templates.find(conn, None, template_id)
    users = templates.users_of(conn, business_id, template_id)
    if users and (heir is None or _misfit(conn, business_id, vars(heir)) is not None):
        raise db.Conflict(f"{template_id} is used by the stages {', '.join(users)}")


def checked_variables(text: str, declared: list[str] | None) -> list[str]:
    """The names a text uses; raises BadTemplate when one is neither the platform's nor declared."""
    texts.check(text, [*texts.NAMES, *(declared or [])])
    return texts.names_used(text) if declared is None else declared


def check_hidden(hidden: templates.Template | None, kind: str) -> None:
    """Raises InvalidRequest when a business's own template would hide a global one of another kind: each stage that
    names none would break."""
    if hidden is not None and hidden.kind != kind:
        raise InvalidRequest(
            f"kind: the global template of this name is one for {hidden.kind}", "Choose another template_id"
        )


def _changed_variables(text: str, declared: list[str] | None, old: templates.Template) -> list[str]:
    """Without a new declaration the old one stands, and the platform's names are found in the text again."""
    if declared is not None:
        return checked_variables(text, declared)
    kept = _own_names(old.input_variables)
    checked_variables(text, kept)
    return list(dict.fromkeys((*texts.names_used(text), *kept)))


def _own(conn: db.Connection, business_id: str | None, template_id: str) -> templates.Template:
    found = templates.find(conn, business_id, template_id)
    if found is None:
        raise db.NotFound
    if found.business_id != business_id:
        raise auth.Forbidden(f"{template_id} is a global template: only the master key changes it")
    return found


def _check_stages(conn: db.Connection, business_id: str | None, fields: dict[str, Any]) -> None:
    """Every stage that names the template must be able to use it as it will be."""
    fault = _misfit(conn, business_id, fields) if business_id is not None else None
    if fault is not None:
        raise InvalidRequest(fault, "Change the stage first, or choose another template_id")


def _misfit(conn: db.Connection, business_id: str, fields: dict[str, Any]) -> str | None:
    wanted = _own_names(fields["input_variables"])
    for use in templates.uses_of(conn, business_id, fields["template_id"]):
        if use.kind != fields["kind"]:
            return f"kind: the stage {use.stage_name} uses it for {use.kind}"
        lacking = [name for name in wanted if name not in use.defined]
        if lacking:
            return f"input_variables: the stage {use.stage_name} does not define {', '.join(lacking)}"
    return None


def _check_all_stages(conn: db.Connection, old: templates.Template, variables: list[str]) -> None:
    """The stages of all businesses cannot be read from here: a global template in use takes no further names."""
    added = [name for name in _own_names(variables) if name not in old.input_variables]
    if added and templates.count_uses(conn, old.template_id):
        raise InvalidRequest(
            f"input_variables: stages use this template without {', '.join(added)}",
            "Save the text under a new template_id",
        )


def _own_names(variables: list[str]) -> list[str]:
    """Without the platform's names, which every stage has."""
    return [name for name in variables if name not in texts.NAMES]


def _scope(business_id: str | None) -> AbstractContextManager[db.Connection]:
    return platform() if business_id is None else tenant(business_id)


@contextmanager
def _changed(business_id: str | None) -> Iterator[db.Connection]:
    if business_id is not None:
        with changed_setup(business_id) as conn:
            yield conn
        return
    with platform() as conn:
        config.lock_global(conn)
        yield conn
