"""GET /metrics: the counts of all processes of this server, for Prometheus."""

from __future__ import annotations

import functools
import hmac
from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response, request
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest, multiprocess
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

import auth
from api import contract, metrics
from api.parts import parts

routes = Blueprint("metrics", __name__)
View = Callable[..., Any]


def _admitted(view: View) -> View:
    """Whoever holds METRICS_KEY, which is good for nothing else; and the master."""
    for_master = auth.require_api_key(view)

    @functools.wraps(for_master)
    def admitted(**arguments: Any) -> Any:
        return view(**arguments) if _has_metrics_key() else for_master(**arguments)

    return admitted


def _has_metrics_key() -> bool:
    key = parts().settings.metrics_key
    scheme, _, sent = request.headers.get("Authorization", "").partition(" ")
    is_bearer = scheme.lower() == "bearer"
    return key is not None and is_bearer and hmac.compare_digest(sent.strip().encode(), key.encode())


@routes.get("/metrics")
@_admitted
@contract.contract(limit=None)
def get_metrics() -> Response:
    """Counts and measurements in Prometheus' text format."""
    metrics.sample()
    return Response(generate_latest(_registry()), content_type=CONTENT_TYPE_PLAIN_0_0_4)


def _registry() -> CollectorRegistry:
    """All processes' counts where they share a folder, else this one's own."""
    shared = CollectorRegistry()
    try:
        multiprocess.MultiProcessCollector(shared)  # type: ignore[no-untyped-call]
    except ValueError:
        return REGISTRY
    return shared
