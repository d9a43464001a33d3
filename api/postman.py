"""The Postman collection: the OpenAPI document's operations in an order that runs from nothing to nothing."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_STEPS = Path(__file__).with_name("postman.json")
_SCHEMA = "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"
_ID = str(uuid.uuid5(uuid.NAMESPACE_URL, "icmp"))
_MASTER = "masterKey"
_BUSINESS = "businessKey"
_ABOUT = (
    "Every path of ICMP with an example, made from its OpenAPI document. Set `baseUrl` and `masterKey` and run the "
    "whole collection: it makes a business, talks to it, and deletes what it made. Each request keeps the ids that "
    "later ones need in variables."
)
_CHECKS = (
    'pm.test("{status}", () => pm.response.to.have.status({status}));',
    'pm.test("has a request id", () => pm.response.to.have.header("X-Request-ID"));',
)


def text(document: dict[str, Any]) -> str:
    """The collection as it is checked in."""
    return json.dumps(collection(document), ensure_ascii=False, indent=1) + "\n"


def collection(document: dict[str, Any]) -> dict[str, Any]:
    """The collection (format 2.1) of an OpenAPI document. Operations that no step names come last but one, before what
    was made is deleted."""
    folders = steps()
    named = {step["operation"] for folder in folders for step in folder["steps"]}
    left = [{"operation": name} for name, _ in _operations(document) if name not in named]
    if left:
        folders.insert(len(folders) - 1, {"name": "More", "steps": left})
    operations = dict(_operations(document))
    items = [_folder(document, operations, folder) for folder in folders]
    kept = sorted({name for folder in folders for step in folder["steps"] for name in step.get("save", {})})
    return {
        "info": {"_postman_id": _ID, "name": "ICMP", "description": _ABOUT, "schema": _SCHEMA},
        "item": items,
        "variable": [
            {"key": "baseUrl", "value": "http://127.0.0.1:8000"},
            *({"key": name, "value": ""} for name in (_MASTER, *kept)),
        ],
    }


def steps() -> list[dict[str, Any]]:
    """The folders of requests in their order, as written."""
    found: list[dict[str, Any]] = json.loads(_STEPS.read_text(encoding="utf-8"))
    return found


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def _folder(
    document: dict[str, Any], operations: Mapping[str, dict[str, Any]], folder: dict[str, Any]
) -> dict[str, Any]:
    items = [_item(document, operations[step["operation"]], step) for step in folder["steps"]]
    return {"name": folder["name"], "description": folder.get("description", ""), "item": items}


def _item(document: dict[str, Any], operation: dict[str, Any], step: dict[str, Any]) -> dict[str, Any]:
    status = str(step.get("status") or next(code for code in operation["responses"] if code < "300"))
    request = _request(document, operation, step)
    script = {"type": "text/javascript", "exec": list(_script(document, operation, step, status))}
    return {
        "name": step.get("name", operation["summary"]),
        "request": request,
        "event": [{"listen": "test", "script": script}],
        "response": _saved_response(document, operation, request, status),
    }


def _request(document: dict[str, Any], operation: dict[str, Any], step: dict[str, Any]) -> dict[str, Any]:
    method, _, path = step["operation"].partition(" ")
    request: dict[str, Any] = {
        "method": method,
        "auth": _auth(operation, step),
        "header": [{"key": key, "value": value} for key, value in step.get("headers", {}).items()],
        "url": _url(path, operation, step),
        "description": operation["summary"],
    }
    if "requestBody" in operation:
        body = _body(document, operation, step)
        request["header"].append({"key": "Content-Type", "value": "application/json"})
        request["body"] = {"mode": "raw", "raw": json.dumps(body, ensure_ascii=False, indent=2)}
        request["body"]["options"] = {"raw": {"language": "json"}}
    return request


def _auth(operation: dict[str, Any], step: dict[str, Any]) -> dict[str, Any]:
    if not operation["security"] and "key" not in step:
        return {"type": "noauth"}
    is_master = [list(each) for each in operation["security"]] == [[_MASTER]]
    key = step.get("key", _MASTER if is_master else _BUSINESS)
    return {"type": "bearer", "bearer": [{"key": "token", "value": f"{{{{{key}}}}}", "type": "string"}]}


def _url(path: str, operation: dict[str, Any], step: dict[str, Any]) -> dict[str, Any]:
    ids = step.get("ids", {})
    filled = re.sub(r"\{(\w+)\}", lambda found: f"{{{{{ids.get(found[1]) or _camel(found[1])}}}}}", path)
    chosen = step.get("query", {})
    known = {each["name"]: each for each in operation["parameters"] if each["in"] == "query"}
    query = [{"key": name, "value": str(value)} for name, value in chosen.items()]
    query += [
        {"key": name, "value": "", "disabled": True, "description": each["schema"].get("description", "")}
        for name, each in known.items()
        if name not in chosen
    ]
    asked = "&".join(f"{name}={value}" for name, value in chosen.items())
    return {
        "raw": "{{baseUrl}}" + filled + (f"?{asked}" if asked else ""),
        "host": ["{{baseUrl}}"],
        "path": filled.strip("/").split("/"),
        "query": query,
    }


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _body(document: dict[str, Any], operation: dict[str, Any], step: dict[str, Any]) -> Any:
    """The schema's example with the step's own values; a step that gives a list, or says `whole`, gives all of it."""
    given = step.get("body", {})
    if isinstance(given, list) or step.get("whole"):
        return given
    example = _example(document, operation["requestBody"])
    return {name: value for name, value in {**example, **given}.items() if name not in step.get("without", ())}


def _example(document: dict[str, Any], part: dict[str, Any]) -> Any:
    found = part["content"]["application/json"]["examples"]["example"]
    return document["components"]["examples"][found["$ref"].rpartition("/")[2]]["value"]


def _script(document: dict[str, Any], operation: dict[str, Any], step: dict[str, Any], status: str) -> Iterator[str]:
    """JavaScript that Postman runs after the answer: its status, the fields it must have, what later requests need."""
    yield from (line.replace("{status}", status) for line in _CHECKS)
    if "application/json" not in operation["responses"][status].get("content", {}):
        return
    yield "const body = pm.response.json();"
    if names := _required(document, operation, status):
        yield f'pm.test("has its fields", () => pm.expect(body).to.include.all.keys({json.dumps(names)[1:-1]}));'
    for path, value in step.get("expect", {}).items():
        wanted = f"pm.variables.replaceIn({json.dumps(value)})" if isinstance(value, str) else json.dumps(value)
        yield f'pm.test("{path}", () => pm.expect({_get(path)}).to.eql({wanted}));'
    for name, path in step.get("save", {}).items():
        yield f'pm.collectionVariables.set("{name}", {_get(path)});'


def _required(document: dict[str, Any], operation: dict[str, Any], status: str) -> list[str]:
    schema = operation["responses"][status]["content"]["application/json"]["schema"]
    name = schema.get("$ref", "").rpartition("/")[2]
    return list(document["components"]["schemas"][name].get("required", ())) if name else []


def _get(path: str) -> str:
    return "".join(["body", *(f"[{part}]" if part.isdigit() else f".{part}" for part in path.split(".") if part)])


def _saved_response(
    document: dict[str, Any], operation: dict[str, Any], request: dict[str, Any], status: str
) -> list[dict[str, Any]]:
    promised = operation["responses"][status]
    if "application/json" not in promised.get("content", {}):
        return []
    body = json.dumps(_example(document, promised), ensure_ascii=False, indent=2)
    return [
        {
            "name": promised["description"],
            "originalRequest": request,
            "code": int(status),
            "status": promised["description"],
            "header": [{"key": "Content-Type", "value": "application/json"}],
            "_postman_previewlanguage": "json",
            "body": body,
        }
    ]
