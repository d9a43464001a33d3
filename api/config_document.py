"""A business's set-up as one document: names instead of ids, defaults left out, and what tells two of them apart."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from api import catalogue, config_names, contract, errors, stage_forms
from api.config_names import Item
from api.errors import InvalidRequest
from api.templates import check_hidden, checked_variables
from db.templates import Template
from nlp import templates as texts
from nlp.errors import BadLookUp, BadSchema, BadTemplate

VERSION = 1
SECTIONS = ("agents", "templates", "stages", "products", "services")
_DIFFERENT = ("created", "changed", "deleted")

_NEEDED: Any = object()
_OFFER: Item = {"name": _NEEDED, "sku": None, "description": "", "price": None, "currency": None}
_OFFER_END: Item = {"attributes": {}, "active": True}
# Every field of the document, in the order in which it is written, with the value that may be left out.
_DEFAULTS: dict[str, Item] = {
    "business": {
        "business_description": None, "address": None, "phone_number": None, "website": None, "settings": {},
    },
    "agents": {
        "agent_name": _NEEDED, "agent_description": "", "agent_type": "ai", "instructions": "", "model_settings": {},
        "is_default": False,
    },
    "templates": {"template_id": _NEEDED, "kind": _NEEDED, "text": _NEEDED, "input_variables": _NEEDED},
    "stages": {
        "stage_name": _NEEDED, "stage_type": _NEEDED, "stage_description": _NEEDED, "agent_name": None,
        **{name: stage_forms.completed(name, None) for name in stage_forms.SECTIONS},
        "stage_selection_example_conversations": "",
    },
    "products": _OFFER | _OFFER_END,
    "services": _OFFER | {"duration_minutes": None} | _OFFER_END,
}  # fmt: skip
_PLACEHOLDER = "prompt.text"


@dataclass(frozen=True)
class Setup:
    """The whole of a document with every default filled in; items by their names, in the document's order."""

    business: Item
    items: dict[str, dict[str, Item]]


def completed(section: str, item: Mapping[str, Any]) -> Item:
    """An item with what was left out; of a row, what the document has of it."""
    full = {name: item.get(name, default) for name, default in _DEFAULTS[section].items()}
    if section == "templates" and full["input_variables"] in (_NEEDED, None):
        full["input_variables"] = texts.names_used(full["text"])
    if section == "stages":
        full |= {name: _full_section(name, item.get(name)) for name in stage_forms.SECTIONS}
    if full.get("price") is not None:
        full["price"] = float(full["price"])
    if "attributes" in full:
        full["attributes"] = _portable(full["attributes"])
    return full


def shortened(setup: Setup) -> dict[str, Any]:
    """The document: sorted by name, without what has its default. Stages keep their order, in which models see them."""
    sections = {
        section: [_shortened(section, items[name]) for name in (items if section == "stages" else sorted(items))]
        for section, items in setup.items.items()
    }
    return {"version": VERSION, "business": _shortened("business", setup.business), **sections}


def difference(old: Setup, new: Setup) -> dict[str, Any]:
    """What becoming `new` means for `old`: names by section, with the names of the fields that change."""
    changed: dict[str, Any] = {"business": _changes("business", old.business, new.business)}
    outcome: dict[str, Any] = {"created": {}, "changed": changed, "deleted": {}, "unchanged": {}}
    for section in SECTIONS:
        before, after = old.items[section], new.items[section]
        fields = {name: _changes(section, before[name], after[name]) for name in sorted({*before} & {*after})}
        outcome["created"][section] = sorted({*after} - {*before})
        changed[section] = [{"name": name, "fields": found} for name, found in fields.items() if found]
        outcome["deleted"][section] = sorted({*before} - {*after})
        outcome["unchanged"][section] = [name for name, found in fields.items() if not found]
    return outcome


def sections_changed(found: Mapping[str, Any]) -> list[str]:
    """The sections in which a difference is one."""
    return [name for name in ("business", *SECTIONS) if any(found[kind].get(name) for kind in _DIFFERENT)]


def checked(
    document: Mapping[str, Any], find_global: Callable[[str], Template | None], own_kinds: Mapping[str, str]
) -> Setup:
    """The set-up that a document (valid by its schema) describes; `own_kinds` are those of the business's templates by
    name, which hide what they hid before. Raises InvalidRequest that names the place."""
    items: dict[str, dict[str, Item]] = {}
    for section in SECTIONS:
        found = []
        for index, item in enumerate(document[section]):
            with _at(f"{section}[{index}]"):
                if section in _CHECKS:
                    _CHECKS[section](item)
                found.append(completed(section, item))
        items[section] = config_names.by_name(section, found)
    setup = Setup(completed("business", document["business"]), items)
    for index, template in enumerate(items["templates"].values()):
        if own_kinds.get(template["template_id"]) != template["kind"]:
            with _at(f"templates[{index}]"):
                check_hidden(find_global(template["template_id"]), template["kind"])
    _check_defaults(setup)
    _check_stages(setup, find_global)
    return setup


def _full_section(name: str, given: Mapping[str, Any] | None) -> Item:
    section = stage_forms.completed(name, given)
    if name == "data_retrieval":
        secrets = section["config"].get("secret_headers")
        config = {key: value for key, value in section["config"].items() if key != "secret_headers"}
        return section | {"config": config | ({"secret_headers": secrets} if secrets else {})}
    prompt = section.pop("prompt")
    if name == "data_extraction" and not section.get("context_data_fields"):
        section.pop("context_data_fields", None)  # none is what a stage has that says nothing of them
    if "text" in prompt:
        prompt = {"text": prompt["text"]} | {key: prompt[key] for key in ("model_settings", "input_variables")}
    return {"prompt": prompt, **section}


def _shortened(section: str, item: Item) -> Item:
    short = _without_defaults(item, _DEFAULTS[section])
    # What the text says anyway; a name of the stages' own must be declared.
    used = texts.names_used(item["text"]) if section == "templates" else []
    if section == "templates" and item["input_variables"] == used and {*used} <= {*texts.NAMES}:
        del short["input_variables"]
    for name in stage_forms.SECTIONS if section == "stages" else ():
        short[name] = _without_defaults(item[name], _DEFAULTS[section][name])
        if "prompt" in short[name]:
            short[name]["prompt"] = _without_defaults(
                short[name]["prompt"], {"model_settings": {}, "input_variables": []}
            )
        if not short[name]:
            del short[name]
    return short


def _without_defaults(item: Item, defaults: Mapping[str, Any]) -> Item:
    return {name: value for name, value in item.items() if name not in defaults or not _same(value, defaults[name])}


def _changes(section: str, old: Item, new: Item) -> list[str]:
    found = []
    for name in _DEFAULTS[section]:
        if section == "stages" and name in stage_forms.SECTIONS:
            keys = {**new[name], **old[name]}
            found += [f"{name}.{key}" for key in keys if not _same(old[name].get(key), new[name].get(key))]
        elif not _same(old[name], new[name], in_order=section == "stages"):
            found.append(name)
    return found


def _same(one: Any, other: Any, *, in_order: bool = True) -> bool:
    """Python takes 1 for True and any order of names for the same; models read a schema's fields in their order."""
    if _NEEDED in (one, other):
        return False
    return json.dumps(one, sort_keys=not in_order) == json.dumps(other, sort_keys=not in_order)


def _portable(value: Any) -> Any:
    """PostgreSQL writes 1e50 out in digits, more of them than a body may hold."""
    if isinstance(value, dict):
        return {name: _portable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_portable(item) for item in value]
    return float(value) if isinstance(value, int) and abs(value) >= 10**39 else value


def _check_template(item: Item) -> None:
    if stage_forms.is_stages_own(item["template_id"]):
        raise InvalidRequest("template_id: belongs to a stage", "Write the text into that stage's prompt as `text`")
    with _at("text", mark=": "):
        checked_variables(item["text"], item.get("input_variables"))


def _check_offer(item: Item) -> None:
    catalogue.checked(item)


def _check_stage(item: Item) -> None:
    """As POST /stages would take it."""
    sections = {name: dict(item[name]) for name in stage_forms.SECTIONS if name in item}
    for kind in stage_forms.KINDS:
        prompt = sections.get(kind, {}).get("prompt")
        if isinstance(prompt, dict) and "text" in prompt:
            if "template_id" in prompt:
                raise InvalidRequest(f"{kind}.prompt: has template_id and text", "Send one of them")
            with _at(f"{kind}.prompt"):
                template = {"template_id": _PLACEHOLDER, "kind": kind, "text": prompt["text"]}
                contract.checked_body("template_create", template)
                with _at("text", mark=": "):
                    texts.names_used(prompt["text"])
            rest = {key: value for key, value in prompt.items() if key != "text"}
            sections[kind]["prompt"] = {"template_id": _PLACEHOLDER, **rest}
    plain = {key: value for key, value in item.items() if key != "agent_name" and key not in sections}
    contract.checked_body("stage_create", plain | sections)


_CHECKS: dict[str, Callable[[Item], Any]] = {
    "templates": _check_template,
    "stages": _check_stage,
    "products": _check_offer,
    "services": _check_offer,
}


def _check_defaults(setup: Setup) -> None:
    defaults = [index for index, agent in enumerate(setup.items["agents"].values()) if agent["is_default"]]
    if len(defaults) > 1:
        raise InvalidRequest(
            f"agents[{defaults[1]}].is_default: agents[{defaults[0]}] is the default already", "Mark at most one agent"
        )


def _check_stages(setup: Setup, find_global: Callable[[str], Template | None]) -> None:
    own = {name: _template(item) for name, item in setup.items["templates"].items()}
    for index, stage in enumerate(setup.items["stages"].values()):
        agent_name = stage["agent_name"]
        if agent_name is not None and agent_name not in setup.items["agents"]:
            raise InvalidRequest(
                f"stages[{index}].agent_name: {agent_name!r} is not among the agents", "Name one of them, or null"
            )
        unknown = [name for name in stage["stage_selection"]["next_stages"] or () if name not in setup.items["stages"]]
        if unknown:
            raise InvalidRequest(
                f"stages[{index}].stage_selection.next_stages: {unknown[0][:100]!r} is not among the stages",
                "Name stages of the document, [] for none, or null for any",
            )
        for name in stage_forms.SECTIONS:
            with _at(f"stages[{index}]", name):
                _check_section(name, stage, own, find_global)


def _check_section(
    name: str, stage: Item, own: Mapping[str, Template], find_global: Callable[[str], Template | None]
) -> None:
    section = stage[name]
    if name == "data_retrieval":
        stage_forms.check({name: section}, {}, {kind: stage[kind] for kind in stage_forms.KINDS})
        return
    prompt = section["prompt"]
    if "text" in prompt:
        template: Template | None = _template({"template_id": _PLACEHOLDER, "kind": name, "text": prompt["text"]})
        prompt = {**prompt, "template_id": _PLACEHOLDER}
    else:
        template = own.get(prompt["template_id"]) or find_global(prompt["template_id"])
    stage_forms.check({name: section | {"prompt": prompt}}, {template.template_id: template} if template else {})


def _template(item: Item) -> Template:
    full = completed("templates", item)
    return Template(business_id=None, version=1, created_at=datetime.now(UTC), **full)


@contextmanager
def _at(place: str, section: str = "", mark: str = ".") -> Iterator[None]:
    """Faults inside name this place first, and the section of a stage unless they do already."""
    try:
        yield
    except (InvalidRequest, BadSchema, BadTemplate, BadLookUp) as error:
        row = errors.row_of(error)
        own = error if isinstance(error, InvalidRequest) else InvalidRequest("")
        schema = "output_schema." if isinstance(error, BadSchema) else ""
        inner = "" if str(error).startswith(section) else f"{section}.{schema}"
        raise InvalidRequest(
            f"{place}{mark}{inner}{error}", own.remediation or row.remediation, own.message or row.message
        ) from None
