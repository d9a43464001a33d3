"""Documents whose commands are run: each block of bash, and below it what it answers, with … for what is left out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

_STEP = re.compile(r"```bash\n(.*?)```\n```json\n(.*?)```\n", re.DOTALL)
_NEXT = "----- next block -----"
SCRIPTS = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def check(document: str, folder: Path, environment: Mapping[str, str], *, seconds: float = 60) -> int:
    """Run the document's blocks as one shell session in `folder`; how many there were. Fails when a command does, or
    when an answer lacks something that the document shows."""
    steps = _STEP.findall(document)
    assert len(steps) == document.count("```bash")
    finished = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"echo '{_NEXT}'\n".join(block for block, _ in steps)],
        cwd=folder,
        env={"PATH": SCRIPTS, "NO_PROXY": "127.0.0.1"} | dict(environment),
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert (finished.returncode, finished.stderr) == (0, ""), f"{finished.stderr}\nafter\n{finished.stdout}"
    outputs = finished.stdout.split(f"{_NEXT}\n")
    assert len(outputs) == len(steps)
    for (block, shown), output in zip(steps, outputs, strict=True):
        assert lacking(shown, output) is None, f"{block}\nanswered\n{output}"
    return len(steps)


def lacking(shown: str, output: str) -> str | None:
    """The first piece of what is shown that the output lacks, in order; white space does not count."""
    rest = "".join(output.split())
    for piece in filter(None, "".join(shown.split()).split("…")):
        _, found, rest = rest.partition(piece)
        if not found:
            return piece
    return None
