"""A turn as Server-Sent Events: stage, data, token…, then done or error. The turn runs in a thread of its own, so that
a client who goes away neither stops nor doubles it, and silence can be filled."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

from flask import Request, Response, stream_with_context

from api import errors
from api.contract import body_text
from api.replies import Reply
from api.turns import Told
from nlp import data_extraction
from nlp.turn import Turn

HEARTBEAT_SECONDS = 10.0
MEDIA_TYPE = "text/event-stream"
Event = tuple[str, Any]


def is_wanted(request: Request, body: dict[str, Any]) -> bool:
    """Whether the caller asked for events."""
    accepted = request.accept_mimetypes
    return bool(body.get("stream")) or ((accepted.best or "").lower() == MEDIA_TYPE and accepted[MEDIA_TYPE] > 0)


def response(work: Callable[[Told], Reply], status: int, headers: dict[str, str]) -> Response:
    """The events of `work`, which is called with who hears how it goes on."""
    # Without the last one nginx keeps events back until its buffer is full.
    kept = headers | {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return Response(stream_with_context(_written(_begun(work))), status, mimetype=MEDIA_TYPE, headers=kept)


class _Telling:
    """Hands on what a turn tells; `kinds` are the events told so far."""

    def __init__(self, events: queue.SimpleQueue[Event]) -> None:
        self._events = events
        self._turn: Turn | None = None
        self.kinds: set[str] = set()

    def news(self, turn: Turn) -> None:
        """The stage once it is chosen, the data once they are read."""
        self._turn = turn
        if turn.stage is not None and turn.steps:
            stage = {"stage_id": turn.stage.stage_id, "stage_name": turn.stage.stage_name}
            self.once("stage", stage | {"confidence": turn.confidence})
        if data_extraction.KIND in turn.finished:
            self._tell_data(turn)

    def text(self, piece: str) -> None:
        """A piece of the reply, which comes after the data, whatever became of them."""
        if self._turn is not None:
            self._tell_data(self._turn)
        self.kinds.add("token")
        self._events.put(("token", {"text": piece}))

    def once(self, kind: str, value: Any) -> None:
        """An event that comes once."""
        if kind not in self.kinds:
            self.kinds.add(kind)
            self._events.put((kind, value))

    def _tell_data(self, turn: Turn) -> None:
        self.once("data", {"data": turn.data, "missing_fields": turn.missing_fields})

    def end(self, reply: Reply) -> None:
        """The whole answer, after what was not told of it: all of it when another worker, or an earlier request with
        the same key, did the turn."""
        body = json.loads(reply.body)
        if body["stage"] is not None:
            self.once("stage", body["stage"])
        self.once("data", {"data": body["data"], "missing_fields": body["missing_fields"]})
        if body["response"] is not None:
            self.once("token", {"text": body["response"]})
        self._events.put(("done", body))


def _begun(work: Callable[[Told], Reply]) -> queue.SimpleQueue[Event]:
    """The events of work that has begun. It begins before the response does: a client who is gone by then would
    otherwise leave it undone."""
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    telling = _Telling(events)

    def run() -> None:
        try:
            telling.end(work(telling))
        except Exception as error:
            events.put(("error", error))

    threading.Thread(target=run, name="stream", daemon=True).start()
    return events


def _written(events: queue.SimpleQueue[Event]) -> Iterator[str]:
    """Each event as it comes; those that came while the last ones were being sent leave together."""
    while True:
        try:
            come = [events.get(timeout=HEARTBEAT_SECONDS)]
        except queue.Empty:
            yield ": still at work\n\n"
            continue
        with contextlib.suppress(queue.Empty):
            while True:
                come.append(events.get_nowait())
        yield "".join(_shown(*event) for event in come)
        if come[-1][0] in {"done", "error"}:
            return


def _shown(kind: str, value: Any) -> str:
    told = errors.told_late(value) if isinstance(value, Exception) else value
    return f"event: {kind}\ndata: {body_text(told)}\n"
