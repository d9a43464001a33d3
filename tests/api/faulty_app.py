"""The app with views that break in every way we could think of, with a secret in their hands."""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

from flask import Flask, Response, request

import app as application
import db
from api.parts import parts

log = logging.getLogger("some.library")


class _Breaks:
    """Breaks when nobody can catch it."""

    def __init__(self, secret: str) -> None:
        self.secret = secret

    def __del__(self) -> None:
        raise ValueError(self.secret)


def _raise(secret: str) -> None:
    raise RuntimeError(f"cannot use {secret}", {"password": secret})


def _chain(secret: str) -> None:
    try:
        int(secret)
    except ValueError as error:
        error.add_note(secret)
        raise KeyError(secret) from error


def _sql(secret: str) -> None:
    with parts().database.transaction(None) as conn:
        db.fetch_all(conn, "SELECT %(secret)s::integer", {"secret": secret})


def _sql_in_one(secret: str) -> None:
    parts().database.once(None, "SELECT length(%(secret)s), nothing FROM nowhere", {"secret": secret})


def _thread(secret: str) -> None:
    thread = threading.Thread(target=_raise, args=(secret,), name=secret)
    thread.start()
    thread.join()


def _garbage(secret: str) -> None:
    _Breaks(secret)


def _warning(secret: str) -> None:
    warnings.warn(f"deprecated {secret} {time.monotonic()}", RuntimeWarning, stacklevel=1)


def _bad_format(secret: str) -> None:
    log.warning("%d", secret)


def _group(secret: str) -> None:
    raise ExceptionGroup(secret, [ValueError(secret)])


FAULTS: dict[str, Callable[[str], Any]] = {
    "raise": _raise,
    "chain": _chain,
    "sql": _sql,
    "sql-in-one": _sql_in_one,
    "thread": _thread,
    "garbage": _garbage,
    "warning": _warning,
    "bad-format": _bad_format,
    "group": _group,
}


def create_app() -> Flask:
    """The real app and the broken views beside it."""
    app = application.create_app()

    @app.post("/break/<kind>")
    def break_down(kind: str) -> Response:
        FAULTS[kind](str(request.get_json()["secret"]))
        return Response("survived")

    @app.post("/log")
    def log_by_mistake() -> Response:
        secret = request.get_json()["secret"]
        log.error("a key %s", secret, extra={"key": {"nested": secret}})
        return Response("logged")

    @app.get("/stream")
    def stream() -> Response:
        def pieces() -> Any:
            yield "first\n"
            time.sleep(0.3)
            yield "last\n"

        return Response(pieces(), mimetype="text/plain")

    return app
