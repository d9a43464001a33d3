"""Virtual environments of their own, below .data/bench, for what the project itself does not need."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

from bench import ground

REQUIREMENTS = Path(__file__).parent / "peers"


def program(name: str) -> Path:
    """A program of the tools' environment: python with matplotlib, or py-spy."""
    return environment("tools") / name


def environment(name: str) -> Path:
    """The folder of programs of the environment whose packages stand in `peers/<name>.txt`, made when it is missing or
    they have changed. Raises CalledProcessError."""
    wanted = (REQUIREMENTS / f"{name}.txt").read_text(encoding="utf-8")
    folder = ground.DATA / name
    installed = folder / "installed.txt"
    if not installed.is_file() or installed.read_text(encoding="utf-8") != wanted:
        print(f"Installing the packages of {name} (once)…", file=sys.stderr)
        venv.create(folder, clear=True, with_pip=True)
        pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--no-input", "--disable-pip-version-check"]
        subprocess.run([*pip, "--requirement", str(REQUIREMENTS / f"{name}.txt")], check=True)
        installed.write_text(wanted, encoding="utf-8")
    return folder / "bin"
