"""The file `.env` of a local run: read under the real environment, given the secrets that nobody set."""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

import dotenv

# 43 URL-safe characters are 256 bits, and no business key looks like it.
GENERATED: dict[str, Callable[[], str]] = {
    "ICMP_API_KEY": lambda: secrets.token_urlsafe(32),
    "ENCRYPTION_KEY": lambda: f"k1:{base64.b64encode(secrets.token_bytes(32)).decode()}",
}


def completed(environment: Mapping[str, str], path: Path) -> dict[str, str]:
    """`environment` over the lines of `path`; missing secrets are made and appended to the file."""
    # A secret that is set but empty counts as not set: it hides no line, neither an old nor a new one.
    environment = {name: value for name, value in environment.items() if name not in GENERATED or value.strip()}
    known = merged(environment, path)
    missing = [name for name in GENERATED if not known.get(name, "").strip()]
    if known.get("KMS_KEY_ID", "").strip():
        missing = [name for name in missing if name != "ENCRYPTION_KEY"]
    if not missing:
        return known
    _append(path, [f"{name}={GENERATED[name]()}" for name in missing])
    return merged(environment, path)


def merged(environment: Mapping[str, str], path: Path) -> dict[str, str]:
    """`environment` over the lines of `path`, if there is such a file."""
    lines = dotenv.dotenv_values(path) if path.exists() else {}
    return {name: value for name, value in lines.items() if value is not None} | dict(environment)


def _append(path: Path, lines: list[str]) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "r+", encoding="utf-8") as file:
        os.fchmod(descriptor, 0o600)
        text = file.read()
        gap = "" if not text or text.endswith("\n") else "\n"
        file.write(gap + "".join(f"{line}\n" for line in lines))
