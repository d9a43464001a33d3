"""The app with faults at the boundaries of its turns: what it is handed is wrapped, the app itself knows nothing.

A request's header `X-Fault: point/kind/id` asks for one fault, which happens once in all processes: the file
FAULTS/id says that it did. A message with the word POISON kills the worker at its stage selection each time.
Each kill takes the other turns of its worker along: MOST_ATTEMPTS is more than so many kills can use up."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from flask import Flask

import app as application
import db
from db import turn_leases
from nlp.llm import Answer, Request

KINDS = ("kill", "exception", "lost_connection", "sleep", "stop")
LEASE_SECONDS = 1.0
LONG_SECONDS = 2.5  # past the lease
_REQUEST = threading.local()


class Injected(Exception):
    """A fault of the tests."""


def app() -> Flask:
    """What gunicorn serves."""
    turn_leases.MAX_ATTEMPTS = int(os.environ.get("MOST_ATTEMPTS", turn_leases.MAX_ATTEMPTS))
    made = application.create_app()
    parts = made.extensions["icmp"]
    # Without threads beside it a request does everything itself, and its faults find it.
    made.extensions["icmp"] = replace(
        parts, database=FaultyDatabase(parts.database), model=FaultyModel(parts.model), threads=None
    )
    made.wsgi_app = _faulty(made.wsgi_app)  # type: ignore[method-assign]
    return made


class FaultyDatabase:
    """The database, with a point before and after the commit of each of a request's transactions."""

    def __init__(self, real: db.Database) -> None:
        self._real = real

    @contextmanager
    def transaction(self, business_id: str | None, **kind: bool) -> Iterator[Any]:
        name = _next("transaction")
        with self._real.transaction(business_id, **kind) as conn:
            yield conn
            _fire(f"{name}_before", conn)
        _fire(f"{name}_after")

    def once(self, *arguments: Any) -> list[tuple[Any, ...]]:
        name = _next("once")
        _fire(f"{name}_before")
        rows = self._real.once(*arguments)
        _fire(f"{name}_after")
        return rows


class FaultyModel:
    """The model, with a point before and after each question."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def ask(self, request: Request) -> Answer:
        if request.kind == "stage_selection" and "POISON" in request.messages[-1]["content"]:
            os.kill(os.getpid(), signal.SIGKILL)
        _fire(f"{request.kind}_before")
        answer: Answer = self._real.ask(request)
        _fire(f"{request.kind}_after")
        return answer


def _faulty(wsgi: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    def served(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        _REQUEST.fault = environ.get("HTTP_X_FAULT", "").split("/")
        _REQUEST.counts = {}
        try:
            body = list(wsgi(environ, start_response))
            _fire("answer_before")
            return body
        finally:
            _REQUEST.fault = []

    return served


def _next(kind: str) -> str:
    """The name of the request's next transaction or single statement."""
    counts = getattr(_REQUEST, "counts", {})
    counts[kind] = counts.get(kind, 0) + 1
    return f"{kind}{counts[kind]}"


def _fire(point: str, conn: Any = None) -> None:
    fault = getattr(_REQUEST, "fault", [])
    if len(fault) != 3 or fault[0] != point:
        return
    try:
        (Path(os.environ["FAULTS"]) / fault[2]).touch(exist_ok=False)
    except FileExistsError:
        return
    _FAULTS[fault[1]](conn)


def _kill(_conn: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _raise(_conn: Any) -> None:
    raise Injected


def _lose_connection(conn: Any) -> None:
    if conn is None:
        raise db.DatabaseUnavailable("injected")
    db.execute(conn, "SELECT pg_terminate_backend(pg_backend_pid())")


def _sleep(_conn: Any) -> None:
    time.sleep(LONG_SECONDS)


def _stop(_conn: Any) -> None:
    """The whole process stands still, its keeper too, and goes on when somebody else has its turns."""
    subprocess.Popen(["/bin/sh", "-c", f"sleep {LONG_SECONDS}; kill -CONT {os.getpid()}"])
    os.kill(os.getpid(), signal.SIGSTOP)


_FAULTS = dict(zip(KINDS, (_kill, _raise, _lose_connection, _sleep, _stop), strict=True))
