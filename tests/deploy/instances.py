"""Two instances of the app behind the proxy of deploy/nginx.conf: real processes that can be killed and come back."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection, HTTPSConnection
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from api import launch, serving
from tests.conftest import ENVIRONMENT, Answer
from tests.waiting import free_port, until

DEPLOY = launch.PROJECT / "deploy"
NGINX = shutil.which("nginx")
MISSING = "nginx is not installed here: apt-get install nginx, as .ci/run does"
PATIENCE_SECONDS = 90
HTTP2_DIRECTIVE_SINCE = (1, 25, 1)


class Instance:
    """One machine's worth of the app: gunicorn with two workers, and its log."""

    def __init__(self, folder: Path, name: str, environment: Mapping[str, str]) -> None:
        self.port = free_port()
        self._log = folder / f"{name}.log"
        own = {"TRUSTED_PROXIES": "127.0.0.1", "LOG_LEVEL": "INFO", "DB_POOL_SIZE": "6", "WEB_CONCURRENCY": "2"}
        chosen = ENVIRONMENT | own | dict(environment) | {"PORT": str(self.port)}
        # Empty counts as not set, and keeps a developer's .env out.
        self._environment = {"PATH": "/usr/bin:/bin", "OPENAI_API_KEY": "", "OPENAI_BASE_URL": "", **chosen}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it is ready."""
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "app.py", "serve", "--no-migrate"],
                cwd=launch.PROJECT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until(lambda: _answers(self.port, "/readyz"), self.log)

    def kill(self) -> None:
        """SIGKILL, the workers too: as when the power fails."""
        if self._process is not None:
            counters = self._counters(self._process.pid)
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
            if counters:
                shutil.rmtree(counters, ignore_errors=True)

    def _counters(self, pid: int) -> str | None:
        """The folder that the server would remove at an orderly end."""
        with suppress(psutil.Error):
            return psutil.Process(pid).environ().get(serving.COUNTERS)
        return None

    def stop(self) -> int:
        """SIGTERM; the exit code of an orderly stop."""
        assert self._process is not None
        self._process.terminate()
        code = self._process.wait(PATIENCE_SECONDS)
        self._process = None
        return code

    def log(self) -> str:
        """Everything it has logged."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def requests(self, route: str) -> int:
        """How many requests of a route it has answered."""
        lines = [json.loads(line) for line in self.log().splitlines() if line.startswith("{") and line.endswith("}")]
        return sum(line["message"] == "request" and line["route"] == route for line in lines)


@dataclass(frozen=True)
class Proxy:
    """nginx with the project's own file."""

    port: int
    plain_port: int
    certificate: Path
    log: Path

    def context(self) -> ssl.SSLContext:
        """A client that trusts this proxy's certificate and nobody else's."""
        return ssl.create_default_context(cafile=str(self.certificate))

    def call(self, method: str, path: str, body: Any = None, key: str | None = None, **headers: str) -> Answer:
        """One request over TLS."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        sent |= {"Authorization": f"Bearer {key}"} if key else {}
        sent |= {"Content-Type": "application/json"} if body is not None else {}
        connection = HTTPSConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS, context=self.context())
        try:
            connection.request(method, path, None if body is None else json.dumps(body), sent)
            response = connection.getresponse()
            text = response.read()
            is_json = response.headers.get("Content-Type", "").startswith("application/json")
            return Answer(response.status, dict(response.headers), json.loads(text) if is_json else text.decode())
        finally:
            connection.close()


@dataclass(frozen=True)
class Site:
    """The proxy and what stands behind it."""

    proxy: Proxy
    instances: tuple[Instance, Instance]


@contextmanager
def site(folder: Path, **environment: str) -> Iterator[Site]:
    """Two instances behind the proxy, until the end of the block."""
    with ExitStack() as stack:
        first, second = (Instance(folder, name, environment) for name in ("one", "two"))
        for instance in (first, second):
            stack.callback(instance.kill)
            instance.start()
        yield Site(stack.enter_context(proxy(folder, (first.port, second.port))), (first, second))


@contextmanager
def proxy(folder: Path, ports: tuple[int, int]) -> Iterator[Proxy]:
    """deploy/nginx.conf in front of two ports."""
    found = Proxy(free_port(), free_port(), folder / "tls.crt", folder / "nginx.log")
    _make_certificate(folder)
    changes = [
        (r"app-1:8000", f"127.0.0.1:{ports[0]}"),
        (r"app-2:8000", f"127.0.0.1:{ports[1]}"),
        (r"^ *listen \[::\].*\n", ""),
        (r"listen 80;", f"listen 127.0.0.1:{found.plain_port};"),
        (r"listen 443 ", f"listen 127.0.0.1:{found.port} "),
        (r"/certificates/", f"{folder}/"),
        (r"worker_processes auto", "worker_processes 2"),
    ]
    if _version() < HTTP2_DIRECTIVE_SINCE:
        changes.append((r"^ *http2 on;\n", ""))
    with nginx(folder, DEPLOY / "nginx.conf", changes, found.port):
        yield found


@contextmanager
def nginx(folder: Path, file: Path, changes: list[tuple[str, str]], port: int) -> Iterator[None]:
    """nginx with a file of deploy/ as it is, but for what belongs to the machine: ports, addresses and folders."""
    text, log = file.read_text(encoding="utf-8"), folder / "nginx.log"
    # The project's own place last: the others must not change it.
    for pattern, replacement in [*changes, (r"/etc/nginx/icmp/", f"{DEPLOY}/nginx/")]:
        text, count = re.subn(pattern, replacement, text, flags=re.MULTILINE)
        assert count, f"{file.name} has no {pattern}"
    config = folder / "nginx.conf"
    config.write_text(_at_home(folder, text), encoding="utf-8")
    command = [NGINX or "nginx", "-c", str(config), "-p", str(folder), "-e", str(log), "-g", "daemon off;"]
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        until(lambda: _listens(port), lambda: log.read_text(encoding="utf-8"))
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


def _at_home(folder: Path, text: str) -> str:
    """Temporary files under the folder, unless the file says where they go."""
    if "_temp_path" in text:
        return text
    places = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"    {place}_temp_path {folder}/{place};\n" for place in places)
    # As root the workers would become `nobody`, who may not enter a folder of tests.
    account = "user root;\n" if os.geteuid() == 0 else ""
    return text.replace("http {\n", f"{account}pid {folder}/nginx.pid;\nhttp {{\n{temporary}", 1)


def _version() -> tuple[int, ...]:
    told = subprocess.run([NGINX or "nginx", "-v"], capture_output=True, text=True, check=True).stderr
    return tuple(int(part) for part in re.findall(r"\d+", told)[:3])


def _make_certificate(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    (folder / "tls.key").write_bytes(private)


def _answers(port: int, path: str) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    except OSError:
        return False
    return True
