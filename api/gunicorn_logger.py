"""gunicorn's own lines in our JSON log."""

from __future__ import annotations

from gunicorn import glogging
from gunicorn.config import Config

from api import logs


class JsonLogger(glogging.Logger):
    """gunicorn's messages through the root logger, so that the whole log is one kind of lines."""

    def setup(self, cfg: Config) -> None:
        logs.configure(cfg.loglevel.upper())
        logs.catch_uncaught()
        self.error_log.setLevel(cfg.loglevel.upper())
        self.error_log.propagate = True
