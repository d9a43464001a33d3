"""Hearing what one logger says."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from api import logs


class Lines(logging.Handler):
    """The lines that one logger writes."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logs.Formatter())
        self.written: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line as its reader would see it."""
        self.written.append(json.loads(self.format(record)))


@contextmanager
def listening(name: str) -> Iterator[Lines]:
    """What the logger of that name writes during the block."""
    lines = Lines()
    logging.getLogger(name).addHandler(lines)
    try:
        yield lines
    finally:
        logging.getLogger(name).removeHandler(lines)
