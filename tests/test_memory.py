"""What a server does not have in memory: each of its processes would count it once more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.conftest import ENVIRONMENT

PROJECT = Path(__file__).resolve().parent.parent
SCRIPT = """
import json, sys
import app, api.gunicorn_hooks, api.worker
app.create_app()
print(json.dumps(sorted(sys.modules)))
"""
# Each is for something that is set, asked for or run apart from the server; `rich` is Flask-Limiter's command line.
NEVER = {"boto3", "botocore", "opentelemetry", "redis", "yaml", "psutil", "rich"}
OWN = {"nlp.offline", "api.launch", "api.demo", "api.config_file", "db.embedded", "db.ownership", "db.redis_buckets"}


def _loaded() -> list[str]:
    model = {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "OPENAI_API_KEY": "any"}
    others = {"OTEL_EXPORTER_OTLP_ENDPOINT": "", "RATE_LIMIT_STORAGE_URI": "", "DATABASE_URL": "postgresql:///"}
    printed = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=PROJECT,
        env={"PATH": "/usr/bin:/bin", **ENVIRONMENT, **model, **others},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    names: list[str] = json.loads(printed.stdout.splitlines()[-1])
    return names


def test_a_server_loads_nothing_heavy_that_it_does_not_need() -> None:
    loaded = _loaded()
    heavy = [name for name in loaded for each in NEVER | OWN if name == each or name.startswith(f"{each}.")]
    assert heavy == []
