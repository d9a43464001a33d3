"""The OpenAPI 3.1 document, made from the routes, their contracts and schemas/; and the page that shows it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from flask import Blueprint, Flask, Response, current_app
from flask_swagger_ui import get_swaggerui_blueprint
from werkzeug.routing import Rule

import auth
import schemas
from api import contract, examples
from api.contract import Contract
from api.errors import RETRY_AFTER

routes = Blueprint("openapi", __name__)
VERSION = "0.2.0.dev0"
DESCRIPTION = (
    "ICMP, the Intelligent Conversation Management Platform: many businesses run their customers' conversations on "
    "language models. Every message runs through three prompts: stage selection, data extraction, response generation."
)
_ANYBODY_OF_A_BUSINESS: list[dict[str, list[str]]] = [
    {scheme: []} for scheme in ("businessKey", "businessCookie", "userToken", "userCookie", "masterKey")
]
_SECURITY: dict[str, list[dict[str, list[str]]]] = {
    "public": [],
    "master": [{"masterKey": []}],
    "business": _ANYBODY_OF_A_BUSINESS,
    "business or global": _ANYBODY_OF_A_BUSINESS,
}
_ERRORS = {
    "400": "Not valid",
    "401": "No valid key",
    "403": "Not allowed",
    "404": "No such object",
    "409": "Conflicts with what is stored",
    "413": "Too large",
    "415": "Not JSON",
    "422": "The Idempotency-Key belongs to another message",
    "429": "Too many requests",
    "503": "Temporarily unavailable",
    "504": "The model did not answer in time",
    "default": "Any other error",
}
_TEXT, _NUMBER = {"type": "string"}, {"type": "integer", "minimum": 0}
# What answers say besides their body, and how.
_HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-ID": {"description": "As it was sent, or else made; on every line of the log", "schema": _TEXT},
    "Location": {"description": "Where the new object is", "schema": _TEXT},
    "Link": {"description": "The next page, if there is one: <address>; rel=next", "schema": _TEXT},
    "Idempotent-Replayed": {"description": "The key has been here before", "schema": {"const": "true"}},
    "Retry-After": {"description": "Seconds to wait", "schema": _NUMBER},
    "RateLimit-Limit": {"description": "Tokens that the bucket holds", "schema": _NUMBER},
    "RateLimit-Remaining": {"description": "Tokens that are left", "schema": _NUMBER},
    "RateLimit-Reset": {"description": "Seconds until the bucket is full", "schema": _NUMBER},
}
_OF_LIMITS = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")


@routes.get("/openapi.json")
@auth.public
@contract.contract(limit=None)
def get_openapi() -> Response:
    """This document."""
    return contract.json_response(document(current_app))


def register(app: Flask) -> None:
    """Add the document and the page at /docs, whose files come with a package."""
    app.register_blueprint(routes)
    page = {
        "app_name": "ICMP",
        "validatorUrl": None,  # the page would have a stranger's server check the document
        "oauth2RedirectUrl": None,  # the package would build it from the Host header, unescaped
    }
    app.register_blueprint(get_swaggerui_blueprint("/docs", "/openapi.json", page))
    # Without its slash the path would be unknown to every method but GET.
    app.add_url_rule("/docs", "swagger_ui.show", app.view_functions["swagger_ui.show"])


_EVENTS = (
    "One event. Asked for with `stream: true` or `Accept: text/event-stream`: `stage`, `data`, `token`… and `done` with"
    " the body of the plain answer, or `error`; comments fill silence. What counts is the `response` of `done`, so put"
    " it in the place of the tokens: they differ when the model's answer broke off and was asked for anew. The"
    " `remediation` of an `error` names the seconds to wait, for which a plain answer has Retry-After."
)


def text(app: Flask) -> str:
    """The document as it is checked in."""
    return json.dumps(document(app), ensure_ascii=False, indent=2) + "\n"


def document(app: Flask) -> dict[str, Any]:
    """The whole document."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "ICMP", "version": VERSION, "description": DESCRIPTION},
        "servers": [{"url": "/"}],
        "paths": _paths(app),
        "components": {
            "schemas": {name: _component(schemas.document(name)) for name in schemas.names()},
            "examples": examples.components(),
            "headers": _HEADERS,
            "responses": {status: _error(status, words) for status, words in _ERRORS.items()},
            "securitySchemes": {
                "masterKey": {"type": "http", "scheme": "bearer", "description": "ICMP_API_KEY"},
                "businessKey": {"type": "http", "scheme": "bearer", "description": "A key of the business"},
                "businessCookie": {"type": "apiKey", "in": "cookie", "name": auth.COOKIE},
                "userToken": {"type": "http", "scheme": "bearer", "description": "The token of a login"},
                "userCookie": {"type": "apiKey", "in": "cookie", "name": auth.USER_COOKIE},
            },
        },
    }


def _paths(app: Flask) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: (rule.rule, rule.endpoint)):
        view = app.view_functions[rule.endpoint]
        promised = getattr(view, "contract", None)
        if promised is None:
            continue
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            paths.setdefault(path, {})[method.lower()] = _operation(rule, view, promised)
    return paths


def _operation(rule: Rule, view: Callable[..., Any], promised: Contract) -> dict[str, Any]:
    access = getattr(view, "access", "public")
    operation: dict[str, Any] = {
        "operationId": rule.endpoint.replace(".", "_"),
        "summary": (view.__doc__ or "").strip().split("\n")[0],
        "tags": [view.__module__.removeprefix("api.")],
        "security": _SECURITY[access],
        "parameters": _parameters(rule, promised, access),
        "responses": _responses(rule, promised, access),
    }
    if promised.takes is not None:
        content = {"application/json": {"schema": _ref(promised.takes), "examples": examples.reference(promised.takes)}}
        is_needed = not {"required", "minProperties", "oneOf"}.isdisjoint(schemas.document(promised.takes))
        operation["requestBody"] = {"required": is_needed, "content": content}
    return operation


def _parameters(rule: Rule, promised: Contract, access: str) -> list[dict[str, Any]]:
    found = []
    for name in sorted(rule.arguments):
        schema = {"type": "string"} if name == "template_id" else {"type": "string", "format": "uuid"}
        found.append({"name": name, "in": "path", "required": True, "schema": schema})
    query = dict(promised.query)
    if access.startswith("business") and "business_id" not in rule.arguments:
        described = "Needed with the master key; else it must be the key's own."
        query["business_id"] = {"type": "string", "format": "uuid", "description": described}
    for name, schema in query.items():
        found.append({"name": name, "in": "query", "required": False, "schema": schema})
    for name, schema in promised.headers.items():
        found.append({"name": name, "in": "header", "required": False, "schema": schema})
    return found


def _responses(rule: Rule, promised: Contract, access: str) -> dict[str, Any]:
    statuses = {400} | {status for status in promised.other_statuses if status >= 400}
    statuses |= set() if access == "public" else {401, 403}
    statuses |= {503} if access != "public" or "POST" in (rule.methods or ()) else set()
    statuses |= {404} if rule.arguments or access.startswith("business") else set()
    statuses |= {413, 415} if promised.takes else set()
    statuses |= {429} if promised.limit else set()
    statuses |= {409} if promised.takes or promised.status == 204 else set()
    errors = [*map(str, sorted(statuses)), "default"]
    responses: dict[str, Any] = {status: {"$ref": f"#/components/responses/{status}"} for status in errors}
    for status in (promised.status, *(status for status in promised.other_statuses if status < 400)):
        responses[str(status)] = _success(promised, status)
    if promised.gives == "health" and "503" in responses:
        responses["503"] = _success(promised, 503)
    return dict(sorted(responses.items()))


def _error(status: str, words: str) -> dict[str, Any]:
    body = {"schema": _ref("error"), "examples": examples.of_errors(status)}
    waits = ["Retry-After"] if status in {"429", *map(str, RETRY_AFTER)} else []
    headers = _headers(*waits, *(_OF_LIMITS if status == "429" else ()))
    return {"description": words, "headers": headers, "content": {"application/json": body}}


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Request-ID", *names)}


def _success(promised: Contract, status: int) -> dict[str, Any]:
    words = {201: "Created", 202: "Stored; people answer", 204: "Done", 503: "Not ready"}.get(status, "OK")
    replayed = ["Idempotent-Replayed"] if "Idempotency-Key" in promised.headers else []
    created = ["Location"] if status == 201 and promised.gives != "event_batch_accepted" else []
    further = [*created, *(["Link"] if promised.many else [])]
    headers = _headers(*further, *replayed, *(_OF_LIMITS if promised.limit else ()))
    if status == 204:
        return {"description": words, "headers": headers}
    if promised.gives is None:
        return {"description": words, "headers": headers, "content": {"*/*": {}}}
    schema: dict[str, Any] = _ref(promised.gives)
    if promised.many:
        schema = {"type": "array", "items": schema}
    body = {"schema": schema, "examples": examples.reference(promised.gives, many=promised.many)}
    content: dict[str, Any] = {"application/json": body}
    if promised.streams:
        shown = {"example": {"value": examples.events(promised.gives)}}
        content["text/event-stream"] = {"schema": _event(promised.gives), "examples": shown}
    return {"description": words, "headers": headers, "content": content}


def _event(gives: str) -> dict[str, Any]:
    """One event of a stream; readers of 3.1 take the schema of a stream for that of each event."""
    told = _component(schemas.document(gives)["properties"])
    contents = {
        "stage": told["stage"],
        "data": _holding({name: told[name] for name in ("data", "missing_fields")}),
        "token": _holding({"text": {"type": "string"}}),
        "done": _ref(gives),
        "error": _ref("error"),
    }
    kinds = [
        _holding(
            {
                "event": {"const": kind},
                "data": {"type": "string", "contentMediaType": "application/json", "contentSchema": content},
            }
        )
        for kind, content in contents.items()
    ]
    return {"description": _EVENTS, "oneOf": kinds}


def _holding(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _component(node: Any) -> Any:
    """A schema whose references point into the document instead of to files."""
    if isinstance(node, dict):
        return {
            key: f"#/components/schemas/{value.removesuffix('.json')}" if key == "$ref" else _component(value)
            for key, value in node.items()
        }
    return [_component(item) for item in node] if isinstance(node, list) else node
