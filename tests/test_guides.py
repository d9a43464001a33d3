"""The guides are right: every command in docs/guides runs as it stands and answers what they show."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from flask import Flask

import app as application
from api.launch import PROJECT
from api.settings import Settings
from db import embedded
from tests import tours
from tests.conftest import MASTER_KEY, Client, onboard
from tests.node import node_tools
from tests.waiting import free_port

GUIDES = {path.name: path.read_text(encoding="utf-8") for path in (PROJECT / "docs" / "guides").glob("*.md")}
PRODUCTION = "go-to-production.md"
SCRIPT = re.compile(r"```js\n(.*?)```\n```json\n(.*?)```\n", re.DOTALL)
pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="the guides need curl, which this machine lacks")


@pytest.mark.parametrize("name", sorted(set(GUIDES) - {PRODUCTION}))
def test_the_guide_answers_what_it_shows(name: str, port: int, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"ICMP_API_KEY={MASTER_KEY}\n")
    assert tours.check(GUIDES[name], tmp_path, {"ICMP": f"http://127.0.0.1:{port}"}) >= 4


def test_the_way_to_production_can_be_gone(tmp_path: Path) -> None:
    with embedded.running(tmp_path / "pg", durable=False) as url:
        host = re.search(r"host=([^&]+)", url)
        assert host
        environment = {
            "PATH": f"{embedded.programs_folder()}:{tours.SCRIPTS}",
            "PGHOST": host[1].replace("%2F", "/"),
            "PGUSER": "postgres",
            "PGDATABASE": "icmp",
            "PORT": str(free_port()),
            # Empty counts as not set, and keeps a developer's .env out.
            **dict.fromkeys(("OPENAI_API_KEY", "OPENAI_BASE_URL", "DB_HOST", "KMS_KEY_ID", "BIND_HOST"), ""),
        }
        assert tours.check(GUIDES[PRODUCTION], PROJECT, environment, seconds=240) >= 5


@pytest.fixture
def page(settings: Settings, serve: Callable[[Flask], int]) -> Client:
    """A business with one stage, behind a server that knows the page."""
    shop = onboard(Client(serve(application.create_app(replace(settings))), MASTER_KEY), "Paper Shop")
    answer = {"fixed_text": "We are open from nine to six."}
    stage = {"stage_name": "hours", "stage_type": "fallback", "stage_description": "x", "response_generation": answer}
    assert shop.post("/api/v1/stages", stage).status == 201
    return shop


@pytest.mark.skipif(node_tools.node() is None, reason="Node is not installed here")
def test_the_scripts_for_pages_run_too(page: Client, tmp_path: Path) -> None:
    cookie = page.post("/api/save-config", {"businessApiKey": page.key}).headers["Set-Cookie"].partition(";")[0]
    scripts = [pair for text in GUIDES.values() for pair in SCRIPT.findall(text)]
    assert len(scripts) == sum(text.count("```js\n") for text in GUIDES.values()) > 0
    for script, shown in scripts:
        file = tmp_path / "page.mjs"
        # What a browser adds to a request by itself.
        page_adds = f"{{Cookie: {cookie!r}, Origin: 'https://shop.example'}}"
        file.write_text(
            f"const ICMP = 'http://127.0.0.1:{page.port}', send = globalThis.fetch;\n"
            f"const fetch = (url, o) => send(url, {{...o, headers: {{...o.headers, ...{page_adds}}}}});\n{script}"
        )
        command = [node_tools.node() or "", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert tours.lacking(shown, done.stdout) is None, done.stdout
