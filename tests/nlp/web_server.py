"""Somebody's web server on a local port, with TLS or without, that plays the behaviours of the model server."""

from __future__ import annotations

import datetime
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.nlp import model_server
from tests.nlp.model_server import Behaviour, answers


@dataclass(frozen=True)
class Seen:
    """One request as it arrived; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Handler(model_server.Handler):
    server: Server

    def play(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        with self.server.lock:
            self.server.seen.append(Seen(self.command, self.path, headers, body))
            script = self.server.script
            behaviour = script.pop(0) if len(script) > 1 else script[0]
        behaviour(self)


for _method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"):
    setattr(Handler, f"do_{_method}", Handler.play)


class Server(model_server.Server):
    """Remembers what it was asked and for which name (`names`) it was asked over TLS."""

    def __init__(self) -> None:
        super().__init__()
        self.RequestHandlerClass = Handler
        self.seen: list[Seen] = []
        self.names: list[str | None] = []

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def plays(self, *script: Behaviour) -> None:
        """From now on this, and nothing seen so far."""
        self.script = list(script)
        self.seen.clear()

    def tells(self, value: Any, status: int = 200, **headers: str) -> None:
        """From now on this answer, as JSON unless it is bytes."""
        self.plays(answers(value if isinstance(value, bytes) else json.dumps(value).encode(), status, **headers))


@contextmanager
def running(tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """A server on a port of its own, gone afterwards."""
    server = Server()
    if tls is not None:
        tls.sni_callback = lambda _socket, name, _context: server.names.append(name)
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


def certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server that can prove this name, and a client that believes its certificate and no other."""
    key = ec.generate_private_key(ec.SECP256R1())
    issued_to = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    today = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(issued_to, issued_to, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(today - datetime.timedelta(1)).not_valid_after(today + datetime.timedelta(1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    public = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem = folder / "server.pem"
    pem.write_bytes(private + public)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    return server, ssl.create_default_context(cadata=public.decode())
