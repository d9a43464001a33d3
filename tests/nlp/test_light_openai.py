"""The client's types load when they are asked for, and nobody can tell that they did not before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def _printed(script: str) -> list[str]:
    """Lines that a fresh interpreter prints: in this one the types may have been asked for long ago."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, threading, nlp, openai\n{script}"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.splitlines()


def test_types_load_when_they_are_asked_for() -> None:
    assert _printed(
        "print('openai.types.batch' in sys.modules)\n"
        "print(openai.types.Batch.__module__)\n"
        "from openai.types.responses import Response\n"
        "print(Response.__module__, type(openai.types.responses) is type(sys))\n"
        "print(openai.OpenAI(api_key='any').chat.completions.create.__name__)\n"
    ) == ["False", "openai.types.batch", "openai.types.responses.response True", "create"]


def test_a_name_that_nobody_has_is_refused_as_ever() -> None:
    assert _printed(
        "try:\n    openai.types.Nothing\nexcept AttributeError as error:\n    print(error)\n"
        "try:\n    from openai.types import Nothing\nexcept ImportError as error:\n    print(error.name)\n"
    ) == ["module 'openai.types' has no attribute 'Nothing'", "openai.types"]


def test_threads_that_ask_at_once_get_the_same_class() -> None:
    assert _printed(
        "found = []\n"
        "ask = lambda: found.append(openai.types.Batch)\n"
        "threads = [threading.Thread(target=ask) for _ in range(20)]\n"
        "[thread.start() for thread in threads]\n"
        "[thread.join() for thread in threads]\n"
        "print(len(found), len(set(found)))\n"
    ) == ["20 1"]
