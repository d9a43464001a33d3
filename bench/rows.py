"""A server of the file's rows: it answers each call with those of the turn at play and remembers what was asked."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from bench import local_server


@dataclass(frozen=True)
class Request:
    """One call: its path, decoded, and the pairs of its query in their order by name."""

    path: str
    query: tuple[tuple[str, str], ...]


class RowsServer(local_server.Server):
    """`begin` and `end` frame each turn."""

    def __init__(self, port: int = 0) -> None:
        self._lock = threading.Lock()
        self._rows: Sequence[Mapping[str, Any]] = ()
        self._requests: list[Request] = []
        super().__init__(_Handler, port)

    def url(self, service: str, stage_name: str) -> str:
        """The address of one stage's rows."""
        return f"http://{self.host}{quote(path(service, stage_name))}"

    def begin(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """From now on every call is answered with these rows."""
        with self._lock:
            self._rows = rows

    def end(self) -> tuple[Request, ...]:
        """The calls since the last `end`: one that comes between two turns is held against the later one."""
        with self._lock:
            requests, self._requests, self._rows = self._requests, [], ()
            return tuple(requests)

    def answer(self, target: str) -> list[Mapping[str, Any]]:
        """The rows, for one call that is remembered."""
        parts = urlsplit(target)
        query = sorted(parse_qsl(parts.query, keep_blank_values=True))
        with self._lock:
            self._requests.append(Request(unquote(parts.path), tuple(query)))
            return list(self._rows)


def path(service: str, stage_name: str) -> str:
    """Where one stage's rows are, not encoded."""
    return f"/{service}/{stage_name}"


class _Handler(local_server.Handler):
    def get(self) -> None:
        self.send_json(200, cast(RowsServer, self.server).answer(self.path))
