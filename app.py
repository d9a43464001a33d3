"""Build the app: read the environment once, wire the parts, register routes and commands."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # What starts a server needs nothing of what it serves, and would hold it in memory until the end.
    from api import launch

    raise SystemExit(launch.main(sys.argv[1:], os.environ))

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from dotenv import load_dotenv
from flask import Flask

import api
import auth
import db
from api import (
    anomalies,
    bucket_stores,
    commands,
    contract,
    keeper,
    limits,
    log_shipping,
    log_targets,
    logs,
    metrics,
    openapi,
    slots,
    traces,
)
from api.bodies import StrictRequest
from api.parts import Parts
from api.serving import GRACE_SECONDS
from api.setting_reader import BadSetting
from api.settings import Settings, from_environment
from db import keys
from db.key_buckets import KeyBuckets
from db.rate_buckets import PostgresBuckets
from nlp import egress, llm, side_by_side

log = logging.getLogger(__name__)
NO_USE_TRYING_AGAIN = 3  # to gunicorn: a worker that ends otherwise is started again, for ever


class CannotStart(SystemExit):
    """Said in one line; to gunicorn the code means that trying again is of no use."""

    def __init__(self, line: str) -> None:
        super().__init__(line)
        self.code = NO_USE_TRYING_AGAIN
        sys.stderr.write(f"{line}\n")


class _App(Flask):
    """All its functions are plain ones."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Asked for each hook and view of each request; Flask would look whether it is a coroutine's."""
        return func


def create_app(settings: Settings | None = None) -> Flask:
    """The WSGI application. Connects to nothing: the first request does, in its own process."""
    try:
        chosen = settings or _settings()
    except BadSetting as problem:
        if commands.are_wanted():
            return commands.unable(str(problem))
        raise CannotStart(f"ICMP cannot start: {problem}") from None
    logs.configure(chosen.log_level, _shipper(chosen), _secrets(chosen))
    metrics.describe(openapi.VERSION, chosen.openai_model)
    app = _App(__name__, static_folder=None)
    app.request_class = StrictRequest
    app.json = contract.JsonProvider(app)
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    pool_observer = metrics.PoolObserver()
    database = db.Database(chosen.database_url, pool_size=chosen.db_pool_size, observer=pool_observer)
    key_store = keys.KeyStore(chosen.keyring(), compresses=chosen.compresses_ledger)
    threads = side_by_side.Threads(chosen.web_threads)
    api_calls = egress.Egress(chosen.api_call_allowed_hosts)
    watch = keeper.Keeper(database, lease_s=chosen.turn_lease_s, longest_s=chosen.turn_timeout_s + GRACE_SECONDS)
    traced, bound = _traces(chosen), slots.Slots(chosen.turns_at_once)
    model = traced.model(_model(chosen))
    app.extensions["icmp"] = Parts(chosen, database, key_store, model, threads, api_calls, watch, bound, traced)
    sizes = limits.register(app, chosen, bucket_stores.chosen(chosen.rate_limit_storage_uri, database))
    key_buckets = KeyBuckets(PostgresBuckets(database), sizes)
    app.extensions["auth"] = auth.Gate(database, key_store, chosen.icmp_api_key, chosen.allowed_origins, key_buckets)
    anomalies.register(app)
    api.register(app)
    commands.register(app)
    return app


def _settings() -> Settings:
    load_dotenv(Path(__file__).with_name(".env"))
    if not commands.are_wanted():
        return from_environment(os.environ)
    # What starts a server is of no use to the server, which imports this file too.
    from api import local_database

    # A server must be told its database. A command of an operator means the one that runs here.
    return from_environment(local_database.for_commands(os.environ, Path(__file__).parent))


def _model(settings: Settings) -> llm.Model:
    transport = None
    if settings.is_offline:
        # Servers with a real model never need it, and each of their processes would hold it in memory.
        from nlp import offline

        if not commands.are_wanted():
            log.warning("no model is set: the offline model answers (%s)", settings.openai_model)
        transport = offline.transport()
    return llm.Model(
        settings.openai_api_key,
        settings.openai_base_url,
        http_transport=transport,
        call_timeout_s=settings.model_call_timeout_s,
        connections=settings.web_threads * 2,
        on_breaker=_breaker_watch(),
    )


def _breaker_watch() -> Callable[[str, bool], None]:
    def changed(model: str, is_open: bool) -> None:
        name = metrics.model_label(model)
        metrics.BREAKER_OPEN.labels(model=name).inc(1 if is_open else -1)
        log.warning("calls to model %s %s", name, "are not tried: its server is ill" if is_open else "are tried again")

    return changed


def _traces(settings: Settings) -> traces.Traces:
    provider = settings.openai_model if settings.is_offline else "openai"
    return traces.wanted(settings.otel_exporter_otlp_endpoint, version=openapi.VERSION, provider=provider)


def _shipper(settings: Settings) -> log_shipping.Shipper | None:
    if settings.log_http_url is None:
        return None
    return log_shipping.Shipper(
        log_targets.Target(
            settings.log_http_url, settings.log_http_format, settings.log_http_index, settings.log_http_authorization
        )
    )


def _secrets(settings: Settings) -> list[str]:
    """What stands in no line of the log, whoever put it there."""
    keys = (
        settings.icmp_api_key,
        settings.metrics_key,
        settings.openai_api_key,
        settings.log_http_authorization,
        unquote(urlsplit(settings.database_url).password or ""),
    )
    return [key for key in keys if key and len(key) >= 8]
