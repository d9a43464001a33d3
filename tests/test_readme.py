"""The README is right: its tour runs as it stands, its table is the settings', its links lead somewhere."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from flask import Flask

import app as application
from api.settings import Settings
from tests import tours
from tests.conftest import MASTER_KEY

PROJECT = Path(__file__).resolve().parent.parent
README = (PROJECT / "README.md").read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("curl") is None, reason="the tour needs curl, which this machine lacks")
def test_the_tour_answers_what_the_readme_shows(
    settings: Settings, serve: Callable[[Flask], int], tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(f"ICMP_API_KEY=\nICMP_API_KEY={MASTER_KEY}\n")
    port = serve(application.create_app(replace(settings, allowed_origins=frozenset())))
    assert tours.check(README, tmp_path, {"ICMP": f"http://127.0.0.1:{port}"}) >= 8


def test_the_configuration_table_is_env_example() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (?:`(.*?)`)? ?\| (.*) \|$", README, re.MULTILINE)
    example = (PROJECT / ".env.example").read_text(encoding="utf-8")
    assert rows == [
        (name, default, words) for words, name, default in re.findall(r"^# (.*)\n(\w+)=(.*)$", example, re.MULTILINE)
    ]


def test_every_link_of_the_documents_leads_somewhere() -> None:
    documents = [PROJECT / "README.md", PROJECT / "bench" / "README.md", *(PROJECT / "docs").rglob("*.md")]
    links = [
        (document, link)
        for document in documents
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text(encoding="utf-8"))
    ]
    assert len(links) > 10
    assert [(document.name, link) for document, link in links if not (document.parent / link).exists()] == []
