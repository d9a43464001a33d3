"""The app tells of an open breaker: in its log and its metrics, without what tenants wrote."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from prometheus_client import REGISTRY

import app as application
from api import metrics
from api.settings import from_environment
from tests.conftest import ENVIRONMENT
from tests.nlp import model_server as play
from tests.nlp.model_server import REQUEST, refused


def _shown(model: str) -> float:
    return REGISTRY.get_sample_value("icmp_breaker_open", {"model": model}) or 0.0


def test_open_breaker_is_measured_and_logged_without_addresses_and_tenants_names(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with play.running() as server:
        server.script = [play.fails(500)]
        settings = from_environment(
            ENVIRONMENT
            | {
                "DATABASE_URL": "postgresql:///",
                "OPENAI_BASE_URL": server.url,
                "OPENAI_MODEL": REQUEST.model,
                "MODEL_CALL_TIMEOUT_S": "20",
            }
        )
        metrics.describe("test", settings.openai_model)  # as create_app does
        asked = application._model(settings)
        asked._sleep = lambda _seconds: None
        before = _shown(REQUEST.model), _shown("other")
        with caplog.at_level(logging.WARNING, logger="app"):
            for name in (REQUEST.model, "tenants-own-words"):
                for _ in range(10):
                    refused(asked, replace(REQUEST, model=name))
    assert (_shown(REQUEST.model) - before[0], _shown("other") - before[1]) == (1, 1)
    assert _shown("tenants-own-words") == 0
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert "m-1 are not tried" in caplog.text
    assert "127.0.0.1" not in caplog.text
    assert "tenants-own-words" not in caplog.text
