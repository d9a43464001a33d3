"""Read a dialogue file and load its services as businesses through the public API."""

from __future__ import annotations

import http.client
import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

NO_STAGE = "NONE"
NO_PREFERENCE = "dontcare"
REQUEST_TIMEOUT_SECONDS = 120


class BadFile(Exception):
    """The file is not a dialogue file; the text names the file and the fault."""


class ApiRefused(Exception):
    """The API refused a step of the import; the text holds the request, the status and the answer."""


@dataclass(frozen=True)
class Field:
    """One thing that a stage asks for; `enum` is None when any text will do."""

    description: str
    enum: tuple[str, ...] | None


@dataclass(frozen=True)
class Stage:
    """One intent of a service, in the file's own words."""

    stage_name: str
    stage_description: str
    required: tuple[str, ...]
    fields: dict[str, Field]


@dataclass(frozen=True)
class Turn:
    """One customer message with the truth about it: all values known after it (`data`), and what the file's own
    assistant called with (`call`, None when it did not) and got (`results`)."""

    user: str
    stage: str
    data: dict[str, str]
    system: str
    call: dict[str, str] | None = None
    results: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Dialogue:
    """One conversation of the file."""

    dialogue_id: str
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Service:
    """One service of the file: it becomes one business."""

    service: str
    description: str
    stages: tuple[Stage, ...]
    dialogues: tuple[Dialogue, ...]


@dataclass(frozen=True)
class Business:
    """A service after its import; `note` says which wish the API refused, or is None."""

    business_id: str
    api_key: str
    note: str | None


@dataclass(frozen=True)
class Answer:
    """What the API answered; status 0 means that no answer came at all."""

    status: int
    body: Any
    elapsed_ms: float
    headers: Mapping[str, str] = field(default_factory=dict)


class Api:
    """One caller of the public API: an address and a key."""

    def __init__(self, url: str, key: str) -> None:
        self._address = urlsplit(url)
        self._key = key

    def request(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """Send one JSON request; a lost connection gives status 0 and the fault as body."""
        all_headers = {
            "Authorization": f"Bearer {self._key}",
            "Content-Type": "application/json",
            **(headers or {}),
        }
        payload = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        connection = self._connection()
        started = time.perf_counter()
        try:
            connection.request(method, self._address.path.rstrip("/") + path, payload, all_headers)
            response = connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as fault:
            return Answer(0, f"{type(fault).__name__}: {fault}", _elapsed_ms(started))
        finally:
            connection.close()
        return Answer(response.status, _parsed(text), _elapsed_ms(started), dict(response.headers))

    def _connection(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._address.scheme == "https" else http.client.HTTPConnection
        return kind(self._address.hostname or "", self._address.port, timeout=REQUEST_TIMEOUT_SECONDS)


def read(path: Path) -> list[Service]:
    """The services of a dialogue file; raises BadFile."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return [_service(case) for case in document["cases"]]
    except OSError as fault:
        raise BadFile(f"{path} cannot be read: {fault.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        raise BadFile(f"{path} is not a dialogue file: {type(fault).__name__} {fault}") from None


def output_schema(stage: Stage) -> dict[str, Any]:
    """The stage's fields as JSON Schema; each enum also takes the file's word for no preference."""
    properties = {name: _property(described) for name, described in stage.fields.items()}
    return {"type": "object", "properties": properties, "required": list(stage.required)}


def import_service(
    master: Api,
    service: Service,
    messages_per_minute: int,
    data_retrieval: Mapping[str, dict[str, Any]],
) -> Business:
    """Create the business, lift its message limit and create its stages, each with the `data_retrieval` of its name;
    raises ApiRefused."""
    created = create(master, "/api/v1/businesses", _business_body(service))
    business_id = created["business_id"]
    note = _raise_limit(master, business_id, created.get("settings") or {}, messages_per_minute)
    for stage in service.stages:
        create(master, "/api/v1/stages", _stage_body(business_id, stage, data_retrieval[stage.stage_name]))
    return Business(business_id, created["api_key"], note)


def create(api: Api, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The object that a POST has made; raises ApiRefused."""
    answer = api.request("POST", path, body)
    if answer.status != 201 or not isinstance(answer.body, dict):
        raise ApiRefused(f"POST {path} gave {answer.status}: {_shortened(answer.body)}")
    return answer.body


def _service(case: dict[str, Any]) -> Service:
    stages = tuple(_stage(stage) for stage in case["stages"])
    dialogues = tuple(
        Dialogue(dialogue["dialogue_id"], tuple(_turn(turn) for turn in dialogue["turns"]))
        for dialogue in case["dialogues"]
    )
    return Service(case["service"], case["description"], stages, dialogues)


def _stage(stage: dict[str, Any]) -> Stage:
    fields = {
        name: Field(described["description"], tuple(described["enum"]) if described.get("enum") else None)
        for name, described in stage["fields"].items()
    }
    return Stage(stage["stage_name"], stage["stage_description"], tuple(stage["required"]), fields)


def _turn(turn: dict[str, Any]) -> Turn:
    call, results = turn.get("call"), tuple(dict(row) for row in turn.get("results") or ())
    parameters = None if call is None else dict(call["parameters"])
    return Turn(turn["user"], turn["stage"], dict(turn["data"]), turn["system"], parameters, results)


def _property(described: Field) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string", "description": described.description}
    if described.enum is not None:
        schema["enum"] = list(dict.fromkeys((*described.enum, NO_PREFERENCE)))
    return schema


def _business_body(service: Service) -> dict[str, Any]:
    return {
        "owner_id": str(uuid.uuid4()),
        "business_name": f"{service.service} {uuid.uuid4().hex[:8]}",
        "business_description": service.description,
    }


def _stage_body(business_id: str, stage: Stage, data_retrieval: dict[str, Any]) -> dict[str, Any]:
    return {
        "business_id": business_id,
        "stage_name": stage.stage_name,
        "stage_type": "information",
        "stage_description": stage.stage_description,
        "stage_selection": {
            "prompt": _prompt("icmp.stage_selection"),
            "context_data_fields": {},
            "next_stages": None,
        },
        "data_extraction": {
            "prompt": _prompt("icmp.data_extraction"),
            "require_quote": False,
            "output_schema": output_schema(stage),
        },
        "data_retrieval": data_retrieval,
        "response_generation": {
            "prompt": _prompt("icmp.response_generation"),
            "context_data_fields": {},
            "fixed_text": None,
            "fallback_text": None,
        },
    }


def _prompt(template_id: str) -> dict[str, Any]:
    return {"template_id": template_id, "model_settings": {}, "input_variables": []}


def _raise_limit(master: Api, business_id: str, settings: dict[str, Any], messages_per_minute: int) -> str | None:
    # PATCH replaces a top-level field whole: what the business already has is sent along.
    body = {"settings": {**settings, "messages_per_minute": messages_per_minute}}
    answer = master.request("PATCH", f"/api/v1/businesses/{business_id}", body)
    if answer.status == 200:
        return None
    return f"settings.messages_per_minute was refused ({answer.status} {_shortened(answer.body)})"


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text) if text else None
    except ValueError:
        return text.decode(errors="replace")


def _shortened(body: Any) -> str:
    return json.dumps(body, ensure_ascii=False)[:300]


def _elapsed_ms(started: float) -> float:
    return (time.perf_counter() - started) * 1000
