"""`make run`: the whole platform on one machine; `python app.py serve`: this process becomes the server."""

from __future__ import annotations

import functools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import db
from api import demo, env_file, local_database, serving, settings
from api.log_copy import LogCopy
from api.setting_reader import BadSetting
from api.settings import Settings
from db import embedded, keys, migrate, ownership
from db.cipher import Undecryptable

PROJECT = Path(__file__).resolve().parent.parent
READY_SECONDS = 60
LOG_TAIL_LINES = 15
USAGE = "usage: python app.py [serve [--no-migrate]]"


class StartFailed(Exception):
    """The platform did not start, or stopped by itself; the text says why."""


def main(arguments: list[str], environment: Mapping[str, str], home: Path = PROJECT) -> int:
    """Do what the command line asks for; the exit code. `home` holds `.env` and, when relative, DATA_DIR."""
    try:
        match arguments:
            case []:
                return _LocalRun(environment, home).run()
            case ["serve"] | ["serve", "--no-migrate"]:
                _serve(env_file.merged(environment, home / ".env"), migrating="--no-migrate" not in arguments)
            case _:
                sys.stderr.write(f"{USAGE}\n")
                return 2
    except (StartFailed, BadSetting, embedded.EmbeddedServerFailed) as problem:
        sys.stderr.write(f"ICMP: {problem}\n")
    except OSError as problem:
        sys.stderr.write(f"ICMP: {problem.filename or 'a file'}: {problem.strerror}\n")
    return 1


def _serve(environment: Mapping[str, str], *, migrating: bool) -> None:
    chosen = settings.from_environment(environment)
    _check_port(chosen)
    if migrating:
        _migrate(chosen, environment)
    _check_database(chosen, environment)
    command = serving.command(chosen, name="icmp")
    os.chdir(PROJECT)
    os.execve(command[0], command, serving.variables(chosen, environment))  # noqa: S606 — no shell is wanted


class _LocalRun:
    """One `make run`: from an empty folder to Ctrl-C."""

    def __init__(self, environment: Mapping[str, str], home: Path) -> None:
        # Signals only set flags, so that no step is left half done; a second one cuts the waiting short.
        self._stop, self._hurry = threading.Event(), threading.Event()
        self._environment = env_file.completed(environment, home / ".env")
        self._is_embedded = not local_database.is_named(self._environment)
        if self._is_embedded:
            # The other settings are checked before a database starts.
            self._environment = local_database.pointed_at("postgresql:///", self._environment)
        self._settings = settings.from_environment(self._environment)
        self._data_dir = (home / self._settings.data_dir).resolve()
        self._log = self._data_dir / "icmp.log"
        self._environment["DATA_DIR"] = str(self._data_dir)
        self._database: local_database.Server | None = None

    def run(self) -> int:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        with ExitStack() as stack:
            self._take_data_dir(stack)
            self._stop_leftover()
            _check_port(self._settings)
            if self._is_embedded:
                self._start_database(stack)
            _migrate(self._settings, self._environment)
            _check_database(self._settings, self._environment)
            if not self._stop.is_set():
                self._serve_until_stopped(stack)
        return 0

    def _on_signal(self, _number: int, _frame: object) -> None:
        (self._hurry if self._stop.is_set() else self._stop).set()

    def _take_data_dir(self, stack: ExitStack) -> None:
        try:
            self._data_dir.mkdir(parents=True, exist_ok=True)
            stack.enter_context(ownership.held(self._data_dir / "lock"))
        except ownership.AlreadyHeld:
            raise StartFailed(f"it already runs on DATA_DIR {self._data_dir}") from None
        except OSError as problem:
            raise StartFailed(f"DATA_DIR {self._data_dir} cannot be used: {problem.strerror}") from None

    def _start_database(self, stack: ExitStack) -> None:
        wanted = self._settings.web_concurrency * self._settings.db_pool_size + 50
        start = functools.partial(embedded.running, self._data_dir / "postgres", max_connections=max(100, wanted))
        self._database = local_database.Server(stack.enter_context(ExitStack()), start)
        url = self._database.start()
        self._environment = local_database.pointed_at(url, self._environment)
        self._settings = replace(self._settings, database_url=url, migration_database_url=url)

    @property
    def _process_name(self) -> str:
        return f"icmp {self._data_dir}"

    @property
    def _pid_file(self) -> Path:
        return self._data_dir / "gunicorn.pid"

    def _stop_leftover(self) -> None:
        """A killed parent leaves its server behind, still holding the port."""
        process = ownership.leftover(self._pid_file, self._process_name)
        if process is not None:
            patience = serving.stop_seconds(self._settings)
            ownership.stop(process, gently=signal.SIGTERM, firmly=signal.SIGKILL, patience_seconds=patience)

    def _serve_until_stopped(self, stack: ExitStack) -> None:
        copy = LogCopy(self._log, sys.stdout.fileno())
        stack.callback(copy.end)  # after the server's last words
        server = self._start_server()
        stack.callback(self._stop_server, server)
        api = demo.Api(_base_url(self._settings), self._settings.icmp_api_key)
        self._wait_until_ready(server, api)
        if not self._stop.is_set():
            found = self._demo(api)
            if self._settings.log_stdout:
                copy.start()
            self._tell(api.base_url, found)
        while not self._stop.wait(0.5):
            self._check_alive(server)
            if self._database is not None:
                self._database.keep_up(self._data_dir / "postgres", self._settings.database_url)

    def _demo(self, api: demo.Api) -> demo.Demo | None:
        try:
            return demo.provide(api, self._data_dir / "demo.json")
        except (demo.CallFailed, OSError) as problem:
            raise StartFailed(f"the demo business could not be made: {problem}{self._log_tail()}") from problem

    def _start_server(self) -> subprocess.Popen[bytes]:
        with ExitStack() as stack:
            output = stack.enter_context(self._log.open("ab"))
            server = subprocess.Popen(  # noqa: S603 — our own command line
                serving.command(self._settings, name=self._process_name),
                cwd=PROJECT,
                env=serving.variables(self._settings, self._environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # the terminal's Ctrl-C must reach it once, through us
            )
        self._pid_file.write_text(f"{server.pid}\n")
        return server

    def _stop_server(self, server: subprocess.Popen[bytes]) -> None:
        server.terminate()
        deadline = time.monotonic() + serving.stop_seconds(self._settings) + serving.GRACE_SECONDS
        while server.poll() is None and time.monotonic() < deadline and not self._hurry.wait(0.05):
            pass
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)  # also workers that a crashed master left
        server.wait()
        self._pid_file.unlink(missing_ok=True)

    def _wait_until_ready(self, server: subprocess.Popen[bytes], api: demo.Api) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not self._stop.wait(0.1) and not _is_ready(api):
            self._check_alive(server)
            if time.monotonic() > deadline:
                raise StartFailed(f"the server is not ready after {READY_SECONDS} s{self._log_tail()}")

    def _check_alive(self, server: subprocess.Popen[bytes]) -> None:
        if server.poll() is not None:
            raise StartFailed(f"the server stopped by itself (exit code {server.returncode}){self._log_tail()}")

    def _log_tail(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return "\n".join([f"; the end of {self._log}:", *lines])

    def _tell(self, base_url: str, found: demo.Demo | None) -> None:
        lines = ["", f"ICMP runs at {base_url}  (documentation: {base_url}/docs)"]
        if self._settings.is_offline:
            lines.append("No model is set, so the offline model answers (icmp-offline); OPENAI_API_KEY changes that.")
        lines.append(f"Log: {self._log}")
        if found is not None:
            lines += ["", f"Demo business: {found.business_name}", f"  business_id  {found.business_id}"]
            lines += [f"  API key      {found.api_key}", "", "Try it:", f"  {found.curl(base_url)}"]
        lines += ["", "Ctrl-C stops everything.", ""]
        with suppress(BrokenPipeError):  # whoever has read enough does not end the server
            sys.stdout.write("\n".join(lines))
            sys.stdout.flush()


def _check_port(chosen: Settings) -> None:
    """Bind as the server will; its own complaint would come late and long."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(chosen.host, chosen.port, type=socket.SOCK_STREAM)[0]
    except OSError:
        raise StartFailed(f"BIND_HOST {chosen.host!r} is no address of this machine") from None
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(where)
        except OSError as problem:
            reason = (problem.strerror or str(problem)).lower()
            raise StartFailed(
                f"PORT {chosen.port} on BIND_HOST {chosen.host} cannot be used: {reason}; set another one"
            ) from None


def _migrate(chosen: Settings, environment: Mapping[str, str]) -> None:
    variable = "MIGRATION_DATABASE_URL" if environment.get("MIGRATION_DATABASE_URL") else _variable(environment)
    try:
        migrate.apply(chosen.migration_database_url)
    except Exception as problem:  # whatever a database may answer, it is one line that names the variable
        raise StartFailed(f"{variable}: the migrations failed: {_reason(problem)}") from problem


def _check_database(chosen: Settings, environment: Mapping[str, str]) -> None:
    """The app's own login may differ from the one that migrates; and the key must be the one of the data."""
    database = db.Database(chosen.database_url, pool_size=1)
    try:
        with database.transaction(None) as conn:
            keys.KeyStore(chosen.keyring()).check(conn)
    except Undecryptable as problem:
        raise StartFailed(f"ENCRYPTION_KEY does not fit the data ({problem}); put the former one back") from problem
    except db.KeysUnavailable as problem:
        raise StartFailed(f"KMS_KEY_ID: {problem}") from problem
    except Exception as problem:  # as above
        raise StartFailed(f"{_variable(environment)}: no connection: {_reason(problem)}") from problem
    finally:
        database.close()


def _variable(environment: Mapping[str, str]) -> str:
    return next(
        (name for name in local_database.VARIABLES if environment.get(name, "").strip()), local_database.VARIABLES[0]
    )


def _reason(problem: BaseException) -> str:
    """The first line of the driver's words; our own classes keep them as their cause."""
    return str(problem.__cause__ or problem).strip().partition("\n")[0] or type(problem).__name__


def _base_url(chosen: Settings) -> str:
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 — where everything listens, a client needs one address
    return f"http://{serving.address(replace(chosen, host=here.get(chosen.host, chosen.host)))}"


def _is_ready(api: demo.Api) -> bool:
    try:
        api.call("GET", "/readyz")
    except (demo.CallFailed, OSError):
        return False
    return True
