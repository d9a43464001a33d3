"""The README is right: its tour runs as it stands, its table is the settings', its links lead somewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from flask import Flask

import app as application
from api.settings import Settings
from tests.conftest import MASTER_KEY

PROJECT = Path(__file__).resolve().parent.parent
README = (PROJECT / "README.md").read_text(encoding="utf-8")
STEP = re.compile(r"```bash\n(.*?)```\n```json\n(.*?)```\n", re.DOTALL)
NEXT = "----- next block -----"


def _run(script: str, folder: Path, address: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={"PATH": path, "ICMP": address, "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _lacking(shown: str, output: str) -> str | None:
    """The first piece of what the README shows that the output lacks, in order; white space does not count."""
    rest = "".join(output.split())
    for piece in "".join(shown.split()).split("…"):
        _, found, rest = rest.partition(piece)
        if piece and not found:
            return piece
    return None


@pytest.mark.skipif(shutil.which("curl") is None, reason="the tour needs curl, which this machine lacks")
def test_the_tour_answers_what_the_readme_shows(
    settings: Settings, serve: Callable[[Flask], int], tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(f"ICMP_API_KEY=\nICMP_API_KEY={MASTER_KEY}\n")
    port = serve(application.create_app(replace(settings, allowed_origins=frozenset())))
    steps = STEP.findall(README)
    assert len(steps) == README.count("```bash") >= 8
    finished = _run(f"echo '{NEXT}'\n".join(block for block, _ in steps), tmp_path, f"http://127.0.0.1:{port}")
    assert (finished.returncode, finished.stderr) == (0, "")
    outputs = finished.stdout.split(f"{NEXT}\n")
    assert len(outputs) == len(steps)
    for (block, shown), output in zip(steps, outputs, strict=True):
        assert _lacking(shown, output) is None, f"{block}\nanswered\n{output}"


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
