"""The same three steps as a graph of LangGraph whose PostgresSaver keeps the conversations, served by Flask.

`DATABASE_URL`, `OPENAI_BASE_URL`, `SHOP` (a JSON file: description, and per stage its description and fields) and
`POOL_SIZE` come from the environment. `python langgraph_app.py` makes the tables; gunicorn serves `app`.
Made to do well: one compiled graph, one pool of connections, the OpenAI client used directly, the shop in memory.
"""

from __future__ import annotations

import json
import operator
import os
from pathlib import Path
from typing import Annotated, Any, TypedDict

import openai
from flask import Flask, Response, jsonify, request
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.graph import END, START, StateGraph
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool

MODEL = "bench-stub"
HISTORY_MESSAGES = 20
STAY = "none"

shop = json.loads(Path(os.environ["SHOP"]).read_text(encoding="utf-8"))
model = openai.OpenAI(max_retries=0, timeout=60)


class State(TypedDict, total=False):
    """What a conversation remembers; `history` grows, the rest is replaced."""

    history: Annotated[list[dict[str, str]], operator.add]
    message: str
    stage: str
    data: dict[str, Any]
    reply: str


def select(state: State) -> State:
    """Which stage the message belongs to; none keeps the present one."""
    stages = {name: about["description"] for name, about in shop["stages"].items()}
    schema = _object({"reason": {"type": "string"}, "stage": {"type": "string", "enum": [*stages, STAY]}})
    answer = _ask("Choose the stage that fits the customer's message.", {"stages": stages}, state, "stage", schema)
    chosen = json.loads(answer)["stage"]
    return {"stage": state.get("stage") or next(iter(stages)) if chosen == STAY else chosen}


def extract(state: State) -> State:
    """What the customer has told of the stage's fields."""
    fields = {name: {"type": ["string", "null"]} for name in shop["stages"][state["stage"]]["fields"]}
    known = {"stage": state["stage"], "data": state.get("data", {})}
    answer = _ask("Extract what the customer says of these fields.", known, state, "data", _object(fields))
    found = {name: value for name, value in json.loads(answer).items() if value is not None}
    return {"data": {**state.get("data", {}), **found}}


def respond(state: State) -> State:
    """The answer to the customer."""
    known = {"stage": state["stage"], "data": state.get("data", {}), "shop": shop["description"]}
    reply = _ask("Answer the customer in two sentences.", known, state)
    said = [{"role": "user", "content": state["message"]}, {"role": "assistant", "content": reply}]
    return {"reply": reply, "history": said}


def _ask(
    task: str, known: dict[str, Any], state: State, name: str | None = None, schema: dict[str, Any] | None = None
) -> str:
    messages: Any = [
        {"role": "system", "content": f"{task}\n{json.dumps(known)}"},
        *state.get("history", [])[-HISTORY_MESSAGES:],
        {"role": "user", "content": state["message"]},
    ]
    extra: dict[str, Any] = {}
    if schema is not None:
        json_schema = {"name": name, "strict": True, "schema": schema}
        extra["response_format"] = {"type": "json_schema", "json_schema": json_schema}
    completion = model.chat.completions.create(model=MODEL, messages=messages, **extra)
    return completion.choices[0].message.content or ""


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _pool() -> ConnectionPool[Any]:
    options = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    size = int(os.environ["POOL_SIZE"])
    return ConnectionPool(os.environ["DATABASE_URL"], min_size=size, max_size=size, kwargs=options, open=True)


def _graph(saver: PostgresSaver) -> Any:
    graph = StateGraph(State)
    for step in (select, extract, respond):
        graph.add_node(step.__name__, step)
    graph.add_edge(START, "select")
    graph.add_edge("select", "extract")
    graph.add_edge("extract", "respond")
    graph.add_edge("respond", END)
    return graph.compile(checkpointer=saver)


def create_app() -> Flask:
    """The application, with a pool of its own."""
    app = Flask(__name__)
    graph = _graph(PostgresSaver(_pool()))

    @app.post("/message")
    def post_message() -> Response:
        body = request.get_json()
        config = {"configurable": {"thread_id": body["user_id"]}}
        state = graph.invoke({"message": body["message"]}, config)
        return jsonify({"response": state["reply"], "stage": state["stage"], "data": state["data"]})

    @app.get("/")
    def get_root() -> str:
        return "ready"

    return app


if __name__ == "__main__":
    with _pool() as pool:
        PostgresSaver(pool).setup()
