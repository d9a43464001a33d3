"""`python app.py` from outside: what a person sees, what is left behind, and one line for each wrong setting."""

from __future__ import annotations

import itertools
import json
import shlex
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import dotenv
import psutil
import pytest

import db
from api import env_file, launch, serving, settings
from db import cipher, keys
from tests.waiting import free_port

START = "import os, sys; from pathlib import Path; from api import launch; "
START += "sys.exit(launch.main(sys.argv[2:], os.environ, Path(sys.argv[1])))"
KEYS = {"ICMP_API_KEY": "k" * 43, "ENCRYPTION_KEY": f"k1:{'A' * 43}="}
PATIENCE_SECONDS = 60


def _launch(home: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", START, str(home), *arguments],
        env={"PATH": "/usr/bin:/bin", **environment},
        cwd=launch.PROJECT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _refusal(home: Path, *arguments: str, **environment: str) -> str:
    """What a start that must fail says; the one line on stderr."""
    process = _launch(home, *arguments, **environment)
    output, complaint = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, output) == (1, "")
    assert complaint.count("\n") == 1
    return complaint


@contextmanager
def _taken_port() -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield str(listener.getsockname()[1])


def _words(stream: IO[str] | None) -> str:
    """Everything that a successful start prints."""
    assert stream is not None
    lines = []
    for line in stream:
        lines.append(line)
        if line.startswith("Ctrl-C"):
            break
    return "".join(lines)


def _pasted(words: str) -> Any:
    """The answer to the printed curl line."""
    arguments = shlex.split(next(line for line in words.splitlines() if line.strip().startswith("curl")))
    headers = [argument.split(": ", 1) for argument in arguments if ": " in argument and argument[0] != "{"]
    request = urllib.request.Request(arguments[2], data=arguments[-1].encode(), headers=dict(headers))
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
        return json.load(answer)


def _credentials(words: str) -> list[str]:
    return [line for line in words.splitlines() if line.startswith(("  business_id", "  API key"))]


def _processes(home: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if any(str(home) in argument for argument in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def _end(process: subprocess.Popen[str]) -> tuple[int, str]:
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, complaint


def test_two_runs_answer_with_the_same_demo_and_leave_nothing_running(tmp_path: Path) -> None:
    port = str(free_port())
    first = _launch(tmp_path, PORT=port, WEB_CONCURRENCY="1")
    words = _words(first.stdout)
    answer = _pasted(words)
    assert f"http://127.0.0.1:{port}/docs" in words
    assert (answer["model"], answer["status"]) == (settings.OFFLINE_MODEL, "active")
    first.send_signal(signal.SIGINT)
    rest, complaint = first.communicate(timeout=PATIENCE_SECONDS)
    assert (first.returncode, complaint, _processes(tmp_path)) == (0, "", [])
    logged = (tmp_path / ".data" / "icmp.log").read_text().splitlines()
    assert [line for line in (words + rest).splitlines() if line.startswith("{")] == logged
    assert answer["conversation_id"] in {line.get("conversation_id") for line in map(json.loads, logged)}

    second = _launch(tmp_path, PORT=port, WEB_CONCURRENCY="", LOG_STDOUT="0")
    again = _words(second.stdout)
    assert _credentials(again) == _credentials(words)
    assert "{" not in again.partition("Try it")[0]
    assert _end(second) == (0, "")


def test_the_process_that_waits_does_not_hold_what_the_server_needs() -> None:
    asks = "import runpy, sys; sys.argv = ['app.py', 'sevre']\n"
    asks += "try: runpy.run_path('app.py', run_name='__main__')\n"
    asks += "except SystemExit: print(sorted({'openai', 'jsonschema', 'pydantic'} & {*sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", asks], cwd=launch.PROJECT, capture_output=True, text=True, check=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("[]\n", f"{launch.USAGE}\n")


def test_killed_run_and_lost_demo_file_do_not_stop_the_next_run(tmp_path: Path) -> None:
    port = str(free_port())
    first = _launch(tmp_path, PORT=port, WEB_CONCURRENCY="1")
    words = _words(first.stdout)
    first.kill()
    first.communicate(timeout=PATIENCE_SECONDS)
    (tmp_path / ".data" / "demo.json").unlink()

    second = _launch(tmp_path, PORT=port, WEB_CONCURRENCY="1")
    again = _words(second.stdout)
    assert _credentials(again)[0] == _credentials(words)[0]
    assert _credentials(again)[1] != _credentials(words)[1]
    assert _pasted(again)["response"]
    assert _end(second) == (0, "")
    assert _processes(tmp_path) == []


def test_another_encryption_key_than_the_datas_is_one_line(tmp_path: Path, database_url: str) -> None:
    environment = KEYS | {"DATABASE_URL": database_url, "DATA_DIR": str(tmp_path), "PORT": str(free_port())}
    with db.Database(database_url).transaction(None) as conn:
        # Whoever comes first makes the platform's secrets under his own key.
        keys.KeyStore(cipher.Keyring.of((("k1", bytes(range(32))),))).platform(conn)
    assert "ENCRYPTION_KEY does not fit the data" in _refusal(tmp_path, **environment)


def test_server_that_dies_is_told_with_the_end_of_the_log(tmp_path: Path) -> None:
    process = _launch(tmp_path, PORT=str(free_port()), WEB_CONCURRENCY="1")
    _words(process.stdout)
    psutil.Process(int((tmp_path / ".data" / "gunicorn.pid").read_text())).kill()
    _, complaint = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 1
    assert "stopped by itself" in complaint.splitlines()[0]
    assert "Listening at" in complaint
    assert _processes(tmp_path) == []


@pytest.fixture
def near() -> Iterator[Path]:
    """A folder with a short name: below a long one the database's socket is elsewhere, at another address each time."""
    with tempfile.TemporaryDirectory(prefix="icmp-near-", dir="/tmp") as name:
        yield Path(name)


def test_the_database_is_started_again_when_somebody_kills_it(near: Path) -> None:
    process = _launch(near, PORT=str(free_port()), WEB_CONCURRENCY="1")
    words = _words(process.stdout)
    pid_file = near / ".data" / "postgres" / "cluster" / "postmaster.pid"
    psutil.Process(int(pid_file.read_text().split()[0])).kill()
    assert process.stderr is not None
    assert "is gone, and is started again" in process.stderr.readline()
    assert process.stderr.readline() == "ICMP: its PostgreSQL is there again\n"
    assert _pasted(words)["response"]
    assert _end(process) == (0, "")
    assert _processes(near) == []


def test_port_in_use_is_one_line(tmp_path: Path) -> None:
    with _taken_port() as port:
        assert f"PORT {port}" in _refusal(tmp_path, PORT=port)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PORT", "abc"),
        ("BIND_HOST", "no-such-host.invalid"),
        ("ENCRYPTION_KEY", "short"),
        ("DATABASE_URL", "mysql://nowhere"),
        ("DATABASE_URL", "postgresql://icmp:swordfish@127.0.0.1:1/icmp"),
        ("MIGRATION_DATABASE_URL", "postgresql://icmp:swordfish@127.0.0.1:1/icmp"),
        ("DATA_DIR", "/dev/null/data"),
        ("WEB_CONCURRENCY", "1.5"),  # gunicorn reads it by itself
    ],
)
def test_wrong_setting_is_one_line_that_names_it(tmp_path: Path, variable: str, value: str) -> None:
    environment = {"PORT": str(free_port()), variable: value}
    if variable == "MIGRATION_DATABASE_URL":
        environment["DB_HOST"] = "127.0.0.1"
    complaint = _refusal(tmp_path, **environment)
    assert variable in complaint
    assert "swordfish" not in complaint


def test_serve_makes_no_keys_and_no_database(tmp_path: Path) -> None:
    assert "ICMP_API_KEY is missing" in _refusal(tmp_path, "serve", DATABASE_URL="postgresql://127.0.0.1:1/icmp")
    assert "DATABASE_URL is missing" in _refusal(tmp_path, "serve", **KEYS)
    assert list(tmp_path.iterdir()) == []


def test_serve_reads_the_file_as_make_run_does(tmp_path: Path) -> None:
    lines = {**KEYS, "DATABASE_URL": "postgresql://127.0.0.1:1/icmp", "PORT": str(free_port())}
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
    assert "DATABASE_URL: the migrations failed" in _refusal(tmp_path, "serve")
    assert "PORT must lie" in _refusal(tmp_path, "serve", PORT="0")


def test_unknown_words_get_the_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(["sevre"], {}, tmp_path) == 2
    assert capsys.readouterr().err == f"{launch.USAGE}\n"


def test_missing_keys_are_made_once(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("LOG_LEVEL=DEBUG")
    made = env_file.completed({}, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().startswith("LOG_LEVEL=DEBUG\nICMP_API_KEY=")
    assert (len(made["ICMP_API_KEY"]), made["LOG_LEVEL"]) == (43, "DEBUG")
    assert env_file.completed({}, path) == made
    settings.from_environment({**made, "DB_HOST": "127.0.0.1"})


def test_environment_wins_over_the_file_and_empty_counts_as_missing(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("ICMP_API_KEY=\nPORT=1\n")
    made = env_file.completed({"ICMP_API_KEY": "", "PORT": "2", "ENCRYPTION_KEY": KEYS["ENCRYPTION_KEY"]}, path)
    assert (len(made["ICMP_API_KEY"]), made["PORT"]) == (43, "2")
    assert list(dotenv.dotenv_values(path)) == ["ICMP_API_KEY", "PORT"]


def test_an_empty_secret_in_the_environment_hides_none_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    made = env_file.completed({}, path)
    before = path.read_text()
    assert env_file.completed(dict.fromkeys(env_file.GENERATED, ""), path) == made
    assert path.read_text() == before


def test_with_a_key_of_kms_no_local_one_is_made(tmp_path: Path) -> None:
    made = env_file.completed({"KMS_KEY_ID": "arn:aws:kms:eu-central-1:111122223333:key/1"}, tmp_path / ".env")
    assert set(made) == {"KMS_KEY_ID", "ICMP_API_KEY"}


def test_gunicorn_gets_the_safe_flags() -> None:
    environment = {**KEYS, "DB_HOST": "127.0.0.1", "BIND_HOST": "::1", "TRUSTED_PROXIES": "10.0.0.1,10.1.0.0/16"}
    command = serving.command(settings.from_environment(environment), name="icmp")
    options = dict(itertools.pairwise(command))
    assert options["--bind"] == "[::1]:8000"
    assert (options["--forwarder-headers"], options["--header-map"]) == ("X_NONE", "drop")
    assert options["--forwarded-allow-ips"] == "10.0.0.1/32,10.1.0.0/16"
    assert options["--graceful-timeout"] == "50"
    assert {"--preload", "--no-control-socket"} <= set(command)
