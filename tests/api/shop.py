"""A business that customers can write to, and a scripted model behind its own server."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from flask import Flask

import app as application
from api.settings import Settings
from tests.conftest import MASTER_KEY, Answer, Client, onboard
from tests.nlp import model_server
from tests.nlp.model_server import Behaviour, Handler

ORDER_NUMBER = {"order_number": {"type": "string", "pattern": "^[0-9]{4,}$", "description": "Number of the order"}}


def stage(name: str, description: str = "", **changes: Any) -> dict[str, Any]:
    """The body of a stage in the full form; `fields` are its required fields, `fallback_text` and `fixed_text` go
    into its reply."""
    fields = changes.pop("fields", {})
    texts = {key: changes.pop(key) for key in ("fallback_text", "fixed_text") if key in changes}
    body: dict[str, Any] = {
        "stage_name": name,
        "stage_type": "information",
        "stage_description": description or f"The customer is at {name}.",
        "data_extraction": {"output_schema": {"type": "object", "properties": fields, "required": list(fields)}},
        "response_generation": texts,
    }
    return body | changes


ORDER_STATUS = stage("order_status", "The customer asks where an order or parcel is.", fields=ORDER_NUMBER)
SMALL_TALK = stage("small_talk", "The customer greets us.", stage_type="fallback")


def furnish(client: Client, *bodies: dict[str, Any]) -> list[str]:
    """Create the stages; their ids."""
    created = [client.post("/api/v1/stages", body) for body in bodies]
    assert [answer.status for answer in created] == [201] * len(bodies), [answer.body for answer in created]
    return [answer.body["stage_id"] for answer in created]


def write(client: Client, message: str, user_id: str | None = None, **fields: Any) -> Answer:
    """A customer's message; a new customer's unless `user_id` is given."""
    return client.post("/api/v1/messages", {"user_id": user_id or str(uuid.uuid4()), "message": message, **fields})


def says(value: Any, **changes: Any) -> Behaviour:
    """The model's good answer: a text, or an object as JSON."""
    return model_server.answers(model_server.reply(value if isinstance(value, str) else json.dumps(value), **changes))


def picks(name: str) -> Behaviour:
    """The model's answer to stage selection."""
    return says({"reason": "it fits", "stage": name, "confidence": 0.9})


def finds(**values: Any) -> Behaviour:
    """The model's answer to data extraction, without quotes."""
    return says({name: {"value": value, "quote": None} for name, value in values.items()})


@dataclass
class Gate:
    """Holds a model's answer back until it is opened; `reached` tells that the model was asked."""

    reached: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)

    def before(self, then: Behaviour) -> Behaviour:
        """The behaviour behind the gate."""

        def behave(handler: Handler) -> None:
            self.reached.set()
            self.opened.wait(20)
            then(handler)

        return behave


@dataclass(frozen=True)
class Thinker:
    """An app and the model server that it asks."""

    app: Flask
    server: model_server.Server
    master: Client

    def script(self, **lines: Behaviour | list[Behaviour]) -> None:
        """What the model does for each prompt, the last line again and again; forgets what it was asked before."""
        kept = {kind: list(line) if isinstance(line, list) else [line] for kind, line in lines.items()}

        def behave(handler: Handler) -> None:
            with self.server.lock:
                left = kept[_kind(handler.body)]
                line = left.pop(0) if len(left) > 1 else left[0]
            line(handler)

        self.server.bodies.clear()
        self.server.script = [behave]

    def asked(self, kind: str) -> list[str]:
        """All messages of each question of this kind, each as one text."""
        bodies = [body for body in self.server.bodies if _kind(body) == kind]
        return ["\n".join(message["content"] for message in body["messages"]) for body in bodies]

    def shop(self, *stages: dict[str, Any]) -> Client:
        """A new business with these stages."""
        client = onboard(self.master, "Shop")
        furnish(client, *stages)
        return client


@contextmanager
def thinking(settings: Settings, serve: Callable[[Flask], int], **changes: Any) -> Iterator[Thinker]:
    """An app with one database connection whose model is scripted; `changes` are settings."""
    with model_server.running() as server:
        chosen = {"openai_api_key": "sk-test", "openai_base_url": server.url, "openai_model": "m-1"}
        limits = {"model_call_timeout_s": 5.0, "db_pool_size": 1}
        app = application.create_app(replace(settings, **(chosen | limits | changes)))
        app.config["CHECK_REPLIES"] = True
        yield Thinker(app, server, Client(serve(app), MASTER_KEY))


@dataclass(frozen=True)
class Slow:
    """A message that is being answered, and the conversation it is in."""

    conversation_id: str
    answer: Future[Answer]


@contextmanager
def while_thinking(
    thinker: Thinker, client: Client, message: str, good: dict[str, Behaviour], kind: str
) -> Iterator[Slow]:
    """A turn that waits for the model in this step until the block ends, and then goes well."""
    gate, user_id = Gate(), str(uuid.uuid4())
    thinker.script(**good | {kind: gate.before(good[kind])})
    with ThreadPoolExecutor(1) as thread:
        try:
            answer = thread.submit(write, client, message, user_id)
            assert gate.reached.wait(10)
            [conversation] = client.get(f"/conversations/{user_id}").body
            yield Slow(conversation["conversation_id"], answer)
        finally:
            gate.opened.set()


def _kind(body: dict[str, Any]) -> str:
    return str(body.get("response_format", {}).get("json_schema", {}).get("name", "response_generation"))
