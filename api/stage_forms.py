"""From what a caller sends to a stage as it is stored: the full form, the flat form of the seed, and its checks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from api.errors import InvalidRequest
from api.parts import parts
from db.templates import Template
from nlp import data_retrieval, fields
from nlp import templates as texts
from nlp.errors import BadTemplate

SECTIONS = ("stage_selection", "data_extraction", "data_retrieval", "response_generation")
KINDS = ("stage_selection", "data_extraction", "response_generation")
# The texts of the first sketch, which its flat form falls back to.
SEED_TEXTS = {
    "stage_selection": "Determine the intent of this message:",
    "data_extraction": "Extract key information from this message:",
    "response_generation": "Generate a response based on this message:",
}
_STAGES_OWN = re.compile(rf"stage\.[0-9a-f]{{8}}(-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}\.({'|'.join(KINDS)})")
KEY_INFORMATION = {
    "type": "object",
    "properties": {"key_information": {"type": "string", "description": "The key information of the message"}},
    "required": [],
}


def flat_texts(body: Mapping[str, Any], *, is_new: bool) -> dict[str, str]:
    """The prompt texts of the flat form by kind. A new stage without any section is flat as a whole, as is one with
    prompt texts and a look-up, for which the flat form has no words."""
    for kind in KINDS:
        if f"{kind}_prompt" in body and body.get(kind) is not None:
            raise InvalidRequest(f"{kind}_prompt: stands beside {kind}", f"Send {kind} or {kind}_prompt, not both")
    given = {kind: body[f"{kind}_prompt"] for kind in KINDS if f"{kind}_prompt" in body}
    is_flat = is_new and not any(body.get(name) is not None for name in (KINDS if given else SECTIONS))
    return SEED_TEXTS | given if is_flat else given


def template_id_of(stage_id: str, kind: str) -> str:
    """The name of a flat stage's own template."""
    return f"stage.{stage_id}.{kind}"


def is_stages_own(template_id: str) -> bool:
    """Whether a template belongs to one stage's flat form: in a document it is the text of that stage's prompt."""
    return _STAGES_OWN.fullmatch(template_id) is not None


def flat_section(kind: str, stage_id: str, old: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The section of a prompt text of the flat form; of an `old` section it replaces the text and nothing else."""
    known = old or {}
    prompt = {**known.get("prompt", {}), "template_id": template_id_of(stage_id, kind), "input_variables": []}
    section = completed(kind, {**known, "prompt": prompt})
    if kind == "data_extraction" and not section["output_schema"].get("properties"):
        section["output_schema"] = KEY_INFORMATION
    return section


def completed(name: str, section: Mapping[str, Any] | None) -> dict[str, Any]:
    """A section with what was left out."""
    given = dict(section or {})
    if name == "data_retrieval":
        return {"method": "none", "config": {}} | given
    if given.get("output_schema") == {}:
        del given["output_schema"]  # a stage that asks for nothing, too
    defaults: dict[str, dict[str, Any]] = {
        "stage_selection": {"context_data_fields": {}, "next_stages": None},
        "data_extraction": {"require_quote": False, "output_schema": {"type": "object", "properties": {}}},
        "response_generation": {"context_data_fields": {}, "fixed_text": None, "fallback_text": None},
    }
    prompt = {"template_id": f"icmp.{name}", "model_settings": {}, "input_variables": []} | given.get("prompt", {})
    return defaults[name] | given | {"prompt": prompt}


def check(
    sections: Mapping[str, Any], templates: Mapping[str, Template], others: Mapping[str, Any] | None = None
) -> None:
    """Raises InvalidRequest, BadSchema, BadTemplate or BadLookUp for what could not run: now, not in a conversation.
    `others` are those that stay: a look-up uses the names of all sections."""
    for kind in KINDS:
        if kind in sections:
            _check_prompt(kind, sections[kind], templates)
    if "data_extraction" in sections:
        fields.check(sections["data_extraction"]["output_schema"])
    if "response_generation" in sections:
        _check_own_texts(sections["response_generation"])
    whole = {**(others or {}), **sections}
    if "data_retrieval" in whole:
        names = [*texts.NAMES, *(name for kind in KINDS for name in _own_names(whole.get(kind, {})))]
        _check_values(whole["data_retrieval"]["config"], names, "data_retrieval.config")
    if "data_retrieval" in sections:
        data_retrieval.check(sections["data_retrieval"], parts().settings.api_call_allowed_hosts)


def _own_names(section: Mapping[str, Any]) -> Mapping[str, str]:
    return section.get("context_data_fields") or {}


def _check_prompt(kind: str, section: Mapping[str, Any], templates: Mapping[str, Template]) -> None:
    texts.check_context_fields(_own_names(section))
    prompt = section["prompt"]
    template = templates.get(prompt["template_id"])
    if template is None or template.kind != kind:
        found = "there is no such template" if template is None else f"it is a template for {template.kind}"
        raise InvalidRequest(
            f"{kind}.prompt.template_id: {prompt['template_id']!r}: {found}",
            f"Name a template of kind {kind}, or create it with POST /api/v1/templates",
        )
    known = {*texts.NAMES, *_own_names(section)}
    wanted = (*prompt["input_variables"], *template.input_variables, *texts.names_used(template.text))
    lacking = [name for name in dict.fromkeys(wanted) if name not in known]
    if lacking:
        raise InvalidRequest(
            f"{kind}.prompt: unknown name {', '.join(lacking)} for the template {template.template_id}",
            f"Define it in {kind}.context_data_fields",
        )


def _check_own_texts(section: Mapping[str, Any]) -> None:
    names = [*texts.NAMES, *_own_names(section)]
    for name in ("fixed_text", "fallback_text"):
        if section[name] is not None:
            _check_text(section[name], names, f"response_generation.{name}")


def _check_values(value: Any, names: Sequence[str], place: str) -> None:
    """Templated values anywhere in a look-up's configuration."""
    if isinstance(value, str):
        _check_text(value, names, place)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _check_values(item, names, f"{place}.{key}")
    elif isinstance(value, list):
        for item in value:
            _check_values(item, names, place)


def _check_text(text: str, names: Any, place: str) -> None:
    try:
        texts.check(text, names)
    except BadTemplate as error:
        raise BadTemplate(f"{place}: {error}") from None
