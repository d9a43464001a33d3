"""The oldest PostgreSQL that is served, where Debian's package of it is installed, run as the embedded one is."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
from pathlib import Path

import pytest

from db import embedded, migrate

PROGRAMS = Path("/usr/lib/postgresql", str(migrate.OLDEST_SERVER), "bin")


def instead(monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> None:
    """From now on `embedded.running(data_dir)` runs that one. Skips the test where it is not installed."""
    if not (PROGRAMS / "initdb").is_file():
        pytest.skip(f"PostgreSQL {migrate.OLDEST_SERVER} of Debian's is not installed: {PROGRAMS}")
    account = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
    data_dir.mkdir(mode=0o700)
    if account is not None:
        os.chown(data_dir, account.pw_uid, account.pw_gid)
        for folder in data_dir.parents[:2]:  # those of pytest are closed; the server's own start would open them, later
            folder.chmod(folder.stat().st_mode | stat.S_IXOTH)
    command = [str(PROGRAMS / "initdb"), "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
    command += [f"--username={embedded.SUPERUSER}", f"--pgdata={data_dir / 'cluster'}"]
    identity = (account.pw_uid, account.pw_gid) if account else (None, None)
    subprocess.run(command, check=True, capture_output=True, cwd=data_dir, user=identity[0], group=identity[1])
    monkeypatch.setattr(embedded, "VERSION", str(migrate.OLDEST_SERVER))
    monkeypatch.setattr(embedded, "programs_folder", lambda: PROGRAMS)
