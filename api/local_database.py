"""The PostgreSQL that `make run` brings along: when it is used, how commands find it, and its start after an end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

from db import embedded

VARIABLES = ("DATABASE_URL", "DB_HOST")


def is_named(environment: Mapping[str, str]) -> bool:
    """Whether a database of one's own is set."""
    return any(environment.get(name, "").strip() for name in VARIABLES)


def pointed_at(url: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with this database."""
    return {**environment, "DATABASE_URL": url, "MIGRATION_DATABASE_URL": url}


def for_commands(environment: Mapping[str, str], home: Path) -> dict[str, str]:
    """For the command line: where no database is named, the one that `make run` has running on DATA_DIR."""
    data_dir = home / (environment.get("DATA_DIR", "").strip() or ".data")
    url = None if is_named(environment) else embedded.address(data_dir / "postgres")
    return dict(environment) if url is None else pointed_at(url, environment)


@dataclass(frozen=True)
class Server:
    """The server of a local run, which is started again when somebody else ends it: a full memory, mostly."""

    held: ExitStack
    server: Callable[[], AbstractContextManager[str]]

    def start(self) -> str:
        """The URL of its database; raises EmbeddedServerFailed."""
        return self.held.enter_context(self.server())

    def keep_up(self, folder: Path, url: str) -> None:
        """Look whether it is there. What is committed is on its disk, and the app's workers connect anew. Raises
        EmbeddedServerFailed."""
        if embedded.address(folder) is not None:
            return
        sys.stderr.write("ICMP: its PostgreSQL is gone, and is started again; until then requests get 503\n")
        self.held.close()
        if self.start() != url:
            raise embedded.EmbeddedServerFailed("its PostgreSQL got another address: start once more")
        sys.stderr.write("ICMP: its PostgreSQL is there again\n")
