"""A business's whole set-up as one document: read it, compare it, put another in its place."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flask import Blueprint

import auth
import db
from api import catalogue, config_document, config_names, contract, stage_forms, stage_secrets, trail
from api.config_document import Setup
from api.config_names import Item
from api.parts import cipher, tenant
from db import agents, businesses, config, products, services, stages, templates
from db.paging import Page
from nlp import templates as texts

routes = Blueprint("config", __name__)
_DRY_RUN = {"dry_run": {"type": "boolean", "description": "Answer what would change, and change nothing."}}
_SHELVES: dict[str, Any] = {"products": products.SHELF, "services": services.SHELF}
# A catalogue is read at once; what comes near this could not be sent back within a body's limit anyway.
_EVERYTHING = Page(limit=1_000_000)


@dataclass(frozen=True)
class Stored:
    """The set-up as it is, with what the document leaves out: ids by name."""

    setup: Setup
    ids: dict[str, dict[str, str]]
    templates: dict[str, templates.Template]


@routes.get("/config")
@auth.require_business_api_key
@contract.contract(gives="config")
def get_config(business_id: str) -> dict[str, Any]:
    """The business's set-up: itself, agents, templates, stages and catalogue."""
    with tenant(business_id, of_one_moment=True) as conn:
        return exported(conn, business_id)


@routes.put("/config")
@auth.require_business_api_key
@contract.contract(takes="config", gives="config_difference", query=_DRY_RUN)
def put_config(business_id: str, body: dict[str, Any], query: dict[str, Any]) -> dict[str, Any]:
    """Make the set-up what the document says, all of it or nothing, and tell what that changed."""
    with tenant(business_id) as conn:
        found = replace(conn, business_id, body, dry_run=query.get("dry_run", False))
        trail.touched([] if query.get("dry_run") else config_document.sections_changed(found))
        return found


def exported(conn: db.Connection, business_id: str) -> dict[str, Any]:
    """The document, in a transaction of one moment; raises NotFound."""
    return config_document.shortened(_without_ghosts(read(conn, business_id).setup))


def _without_ghosts(setup: Setup) -> Setup:
    """Names in next_stages that stand for no stage allow nothing, and a document may not have them."""
    known = setup.items["stages"]
    stages_left = {}
    for name, stage in known.items():
        selection, following = stage["stage_selection"], stage["stage_selection"]["next_stages"]
        kept = None if following is None else [each for each in following if each in known]
        stages_left[name] = stage | {"stage_selection": selection | {"next_stages": kept}}
    return Setup(setup.business, setup.items | {"stages": stages_left})


def replace(conn: db.Connection, business_id: str, document: dict[str, Any], *, dry_run: bool) -> dict[str, Any]:
    """Put a checked body in the place of what is stored; what changed, or would. Raises InvalidRequest, Conflict and
    NotFound."""
    # Checking a large document takes seconds; nobody has to wait for that, unless somebody changed something meanwhile.
    before, wanted = businesses.setup_version(conn, business_id), _checked(conn, business_id, document)
    config.lock(conn, business_id)
    if businesses.setup_version(conn, business_id) != before:
        wanted = _checked(conn, business_id, document)
    stored = read(conn, business_id)
    for name, stage in wanted.items["stages"].items():
        stage["data_retrieval"] = stage_secrets.without_known(
            conn, business_id, stored.ids["stages"].get(name), stage["data_retrieval"]
        )
    found = config_document.difference(stored.setup, wanted)
    change = _Change(conn, business_id, stored, wanted, found)
    secrets = change.secrets()
    if not dry_run:
        try:
            change.apply(secrets)
        except db.NotFound:
            raise db.Conflict("somebody else changed the set-up at the same time") from None
    return found


def _checked(conn: db.Connection, business_id: str, document: dict[str, Any]) -> Setup:
    known = templates.latest(conn, business_id)
    own_kinds = {name: template.kind for name, template in known.items() if template.business_id is not None}
    return config_document.checked(document, functools.partial(templates.find, conn, None), own_kinds)


def read(conn: db.Connection, business_id: str) -> Stored:
    """Everything that the document holds; raises NotFound."""
    business = businesses.get(conn, business_id, with_lists=False)
    # Stages first: an agent that is missing afterwards was deleted since, and the stage goes on without one.
    stage_rows = stage_secrets.shown(conn, business_id, stages.list_every(conn, business_id))
    agent_rows = agents.list_every(conn, business_id)
    own = {
        name: template
        for name, template in templates.latest(conn, business_id).items()
        if template.business_id is not None
    }
    agent_names: dict[str | None, str] = {agent.agent_id: agent.agent_name for agent in agent_rows}
    rows: dict[str, list[tuple[str, Item]]] = {
        "agents": [(agent.agent_id, vars(agent)) for agent in agent_rows],
        "templates": [(name, vars(row)) for name, row in own.items() if not stage_forms.is_stages_own(name)],
        "stages": [(stage.stage_id, _stage_item(stage, agent_names, own)) for stage in stage_rows],
    }
    for section, shelf in _SHELVES.items():
        offers = reversed(shelf.list_page(conn, business_id, {}, _EVERYTHING))
        rows[section] = [(getattr(offer, shelf.key), vars(offer)) for offer in offers]
    return _stored(vars(business), rows, own)


def _stored(business: Item, rows: dict[str, list[tuple[str, Item]]], own: dict[str, templates.Template]) -> Stored:
    items: dict[str, dict[str, Item]] = {}
    ids: dict[str, dict[str, str]] = {}
    for section, found in rows.items():
        full = [config_document.completed(section, row) for _, row in found]
        names = config_names.names_of(section, full)
        items[section] = dict(zip(names, full, strict=True))
        ids[section] = {name: row_id for name, (row_id, _) in zip(names, found, strict=True)}
    return Stored(Setup(config_document.completed("business", business), items), ids, own)


def _stage_item(
    stage: stages.Stage, agent_names: Mapping[str | None, str], own: Mapping[str, templates.Template]
) -> Item:
    item = vars(stage) | {"agent_name": agent_names.get(stage.agent_id)}
    for kind in stage_forms.KINDS:
        prompt = item[kind]["prompt"]
        if stage_forms.is_stages_own(prompt["template_id"]) and prompt["template_id"] in own:
            rest = {name: value for name, value in prompt.items() if name != "template_id"}
            item[kind] = item[kind] | {"prompt": {"text": own[prompt["template_id"]].text, **rest}}
    return item


@dataclass(frozen=True)
class _Change:
    """From what is stored to what is wanted, within one transaction."""

    conn: db.Connection
    business_id: str
    stored: Stored
    wanted: Setup
    found: dict[str, Any]

    def secrets(self) -> dict[str, dict[str, str]]:
        """Each stage's secret headers: as given, or as stored where the document says null."""
        return {
            name: stage_secrets.wanted(
                self.conn,
                self.business_id,
                self.stored.ids["stages"].get(name),
                stage["data_retrieval"]["config"],
                f"stages[{index}].",
            )
            for index, (name, stage) in enumerate(self.wanted.items["stages"].items())
        }

    def apply(self, secrets: dict[str, dict[str, str]]) -> None:
        """Write what differs; raises Conflict, and NotFound when a row is gone meanwhile."""
        if self.found["changed"]["business"]:
            businesses.update(self.conn, self.business_id, self.wanted.business)
        self._delete("stages", stages.delete)
        self._delete("agents", agents.delete)
        self._save("agents", "agent_id", agents.insert, agents.update)
        for name in self._touched("templates"):
            item = self.wanted.items["templates"][name]
            self._save_template(name, item["kind"], item["text"], item["input_variables"])
        self._save("stages", "stage_id", stages.insert, stages.update, functools.partial(self._stage_row, secrets))
        self._forget_templates()
        for section, shelf in _SHELVES.items():
            self._delete(section, shelf.delete)
            self._save(section, shelf.key, shelf.insert, shelf.update, _offer_row)

    def _touched(self, section: str) -> list[str]:
        """Names of what is new or changes, in the document's order: new stages are offered to the model in it."""
        names = {*self.found["created"][section], *(each["name"] for each in self.found["changed"][section])}
        return [name for name in self.wanted.items[section] if name in names]

    def _delete(self, section: str, delete: Callable[[db.Connection, str, str], None]) -> None:
        ids = self.stored.ids[section]
        for row_id in [row_id for name, row_id in ids.items() if name not in self.wanted.items[section]]:
            delete(self.conn, self.business_id, row_id)

    def _save(
        self,
        section: str,
        key: str,
        insert: Callable[[db.Connection, str, Item], None],
        update: Callable[[db.Connection, str, str, Item], None],
        row_of: Callable[[Item, str], Item] = lambda item, _: item,
    ) -> None:
        ids = self.stored.ids[section]
        for name in self._touched(section):
            is_new = name not in ids
            row_id = ids.setdefault(name, str(uuid.uuid4()))
            row = row_of(self.wanted.items[section][name], row_id)
            if is_new:
                insert(self.conn, self.business_id, row | {key: row_id})
            else:
                update(self.conn, self.business_id, row_id, row)

    def _stage_row(self, secrets: dict[str, dict[str, str]], item: Item, stage_id: str) -> Item:
        row = {name: value for name, value in item.items() if name != "agent_name"}
        for kind in stage_forms.KINDS:
            if "text" in item[kind]["prompt"]:
                prompt = dict(item[kind]["prompt"])
                template_id, text = stage_forms.template_id_of(stage_id, kind), prompt.pop("text")
                self._save_template(template_id, kind, text, texts.names_used(text))
                row[kind] = item[kind] | {"prompt": {"template_id": template_id, **prompt}}
        config_of = {
            name: value for name, value in item["data_retrieval"]["config"].items() if name != "secret_headers"
        }
        known = secrets[item["stage_name"]]
        row["data_retrieval"] = item["data_retrieval"] | {"config": config_of}
        row["agent_id"] = None if item["agent_name"] is None else self.stored.ids["agents"][item["agent_name"]]
        row["secret_headers"] = (
            cipher(self.conn, self.business_id).encrypt("stages", "secret_headers", stage_id, known) if known else None
        )
        return row

    def _save_template(self, template_id: str, kind: str, text: str, input_variables: list[str]) -> None:
        old = self.stored.templates.get(template_id)
        fields: Item = {"template_id": template_id, "kind": kind, "text": text, "input_variables": input_variables}
        if old is None or any(getattr(old, name) != value for name, value in fields.items()):
            fields["version"] = 1 if old is None else old.version + 1
            templates.insert(self.conn, self.business_id, fields)

    def _forget_templates(self) -> None:
        kept = {*self.wanted.items["templates"]}
        for name, stage in self.wanted.items["stages"].items():
            stage_id = self.stored.ids["stages"][name]
            kept |= {
                stage_forms.template_id_of(stage_id, kind)
                for kind in stage_forms.KINDS
                if "text" in stage[kind]["prompt"]
            }
        for template_id in self.stored.templates.keys() - kept:
            # Another stage may name a stage's own template: it stays as long as that one is not changed.
            is_named = stage_forms.is_stages_own(template_id) and templates.users_of(
                self.conn, self.business_id, template_id
            )
            if not is_named:
                templates.delete(self.conn, self.business_id, template_id)


def _offer_row(item: Item, _: str) -> Item:
    return catalogue.checked(item)
