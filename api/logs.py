"""JSON logs: one line a record, with the ids of the request, and nothing secret in them."""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Collection
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO

from flask import g, has_request_context
from pythonjsonlogger.json import JsonFormatter

from api.log_shipping import Shipper

# What a secret looks like, by a text that stands in each such one, in lower case: the expressions are slow, and nearly
# no line has any of these. None of them can reach beyond the JSON string that it stands in.
_LOOKS = {
    "icmp_": r"icmp_[a-z]{3}_[A-Za-z0-9_]{8,}",
    "sk-": r"sk-[A-Za-z0-9_-]{8,}",
    "bearer": r"(?i:bearer)\s+[\w.~+/=-]+",
    "basic": r"(?i:basic)\s+[\w+/=-]{16,}",
    "apikey": r"(?i:apikey)\s+[\w+/=-]{16,}",
    "eyj": r"eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*",
    "://": r'://[^/\s:@"\\]*:[^/\s@"\\]+@',
}
_SECRETS = re.compile("|".join(_LOOKS.values()))
# gunicorn quotes in these what the caller sent.
_QUOTING = re.compile(r"(Invalid request from ip=\S+?|Error handling request)[: ] *.*", re.DOTALL)
_CHAIN = 10  # exceptions that led to one another
_OURS = {"app", "auth", "api", "db", "nlp", "icmp"}
_OF_REQUEST = ("request_id", "business_id", "user_id", "conversation_id", "error_code")
_REMOVED = "[removed]"


class Formatter(JsonFormatter):
    """`timestamp, level, source, message`, the request's ids and the duration; keys never."""

    def __init__(self, secrets: Collection[str] = ()) -> None:
        """`secrets`: texts that no line may hold, whatever put them there."""
        super().__init__()
        self._secrets = tuple(json.dumps(secret)[1:-1] for secret in secrets)

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """Build the line's fields in their order."""
        super().add_fields(log_data, record, message_dict)
        message, quotes = _QUOTING.subn(r"\1", log_data.pop("message", ""))
        # gunicorn tells in an exception's text why it cannot start; a request's exceptions may quote its body.
        if record.exc_info and (quotes or not record.name.startswith("gunicorn")):
            log_data["exc_info"] = _without_texts(record.exc_info[1])
        first = _first(record.created, record.levelname, record.name, message)
        if has_request_context():
            first |= ids(g._get_current_object())  # asked once, not for each id
        rest = dict(log_data)
        log_data.clear()
        log_data |= first | rest

    def format(self, record: logging.LogRecord) -> str:
        """The line; a second net catches keys in whatever was logged."""
        line = super().format(record)  # in ASCII, so that lower() finds all that (?i) does
        lowered = line.lower()
        if any(text in lowered for text in _LOOKS):
            line = _SECRETS.sub(_REMOVED, line)
        for secret in self._secrets:
            line = line.replace(secret, _REMOVED)
        return line


def _first(created: float, level: str, source: str, message: str) -> dict[str, Any]:
    timestamp = datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds")
    return {"timestamp": timestamp, "level": level, "source": source, "message": message}


def _without_texts(error: BaseException | None) -> str:
    """Where it happened, and the kind of each exception on the way there, the last one at the end. Their texts stay
    out: drivers and parsers quote the values that they stumble over."""
    told: list[str] = []
    while error is not None and len(told) < _CHAIN:
        where = "".join(traceback.format_tb(error.__traceback__))
        told.insert(
            0, f"Traceback (most recent call last):\n{where}{type(error).__module__}.{type(error).__qualname__}"
        )
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n\n".join(told)


class Output(logging.StreamHandler[TextIO]):
    """Each record as one line to a stream, and the same line to the shipper when there is one."""

    def __init__(self, shipper: Shipper | None) -> None:
        super().__init__(sys.stdout)
        self.shipper = shipper

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line. What goes wrong here is nobody's fault who logs."""
        try:
            line = self.format(record)
        except Exception:  # the library's own way out would print the record's values to stderr
            line = json.dumps(_first(record.created, "ERROR", record.name, "a line could not be formatted"))
        with suppress(OSError, ValueError):  # nobody reads stdout any more
            self.stream.write(line + self.terminator)
            self.flush()
        if self.shipper is not None:
            self.shipper.offer(line)


def configure(level: str, shipper: Shipper | None = None, secrets: Collection[str] = ()) -> None:
    """Send everything logged in this process to stdout as JSON lines, and to the shipper."""
    root = logging.getLogger()
    for former in root.handlers:
        if isinstance(former, Output) and former.shipper is not None:
            former.shipper.close()
    handler = Output(shipper)
    handler.setFormatter(Formatter(secrets))
    handler.addFilter(_is_careful)
    root.handlers[:] = [handler]
    root.setLevel(level)


def catch_uncaught() -> None:
    """What Python would print to stderr, exception texts and all, becomes lines of this log."""

    def uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        told = error or kind()
        logging.getLogger("icmp.uncaught").critical("uncaught", exc_info=(kind, told, trace))

    def warned(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        del message, file, line  # as with exceptions: what kind, and where
        logging.getLogger("icmp.uncaught").warning("%s at %s:%d", category.__name__, filename, lineno)

    sys.excepthook = uncaught
    threading.excepthook = lambda told: uncaught(told.exc_type, told.exc_value, told.exc_traceback)
    sys.unraisablehook = lambda told: uncaught(told.exc_type, told.exc_value, told.exc_traceback)
    warnings.showwarning = warned


def ids(known: Any) -> dict[str, Any]:
    """What a line says of the request: the ids that `g` holds by now, None for the others."""
    found = {name: known.get(name) for name in _OF_REQUEST}
    return found | {"trace_id": known.trace_id} if "trace_id" in known else found


def _is_careful(record: logging.LogRecord) -> bool:
    """Libraries tell of paths, headers and whole prompts when they are debugged: their DEBUG stays off for ever."""
    return record.levelno > logging.DEBUG or record.name.partition(".")[0] in _OURS
