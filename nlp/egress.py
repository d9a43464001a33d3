"""The one client for addresses that tenants name: to public hosts only, once, bounded, and without any help that
could lead it elsewhere: no redirects, proxies, cookies, credentials of the environment or kept connections."""

from __future__ import annotations

import ipaddress
import json
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import TimeoutError as TookTooLong
from contextlib import contextmanager
from typing import Any

import httpcore2

from json_text import encoded
from nlp import addresses, bounded, templates
from nlp.addresses import Address, BadAddress
from nlp.data_retrieval import ApiCall
from nlp.errors import LookUpFailed
from nlp.side_by_side import Threads

MAX_BYTES = 256 * 1024
MAX_ROWS_BYTES = 2 * MAX_BYTES
MAX_HEADER_BYTES = 32 * 1024
MAX_DEPTH = 32
CONNECT_SECONDS = 2.0
CALLS_PER_BUSINESS = 5
RESOLVING_THREADS = 32

Resolve = Callable[[str, int], Sequence[str]]
_Response = tuple[int, bytes]


def resolve(host: str, port: int) -> list[str]:
    """Every IP address of a host, asked for once."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Egress:
    """Safe to share between threads; opens nothing before it is used."""

    def __init__(
        self,
        exceptions: Collection[str] = (),
        *,
        resolve: Resolve = resolve,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`exceptions`: hosts (`host` or `host:port`) that may be private and spoken to without TLS."""
        self._exceptions = exceptions
        self._resolve = resolve
        self._tls = tls
        self._slots = _Slots(CALLS_PER_BUSINESS)
        self._resolving = Threads(RESOLVING_THREADS)

    def call(
        self, business_id: str, request: ApiCall, further_headers: Mapping[str, str] | None = None
    ) -> list[dict[str, Any]]:
        """What the server answers, as rows; `further_headers` replace those of the same name. Raises LookUpFailed."""
        deadline = min(request.deadline, time.monotonic() + request.timeout_s)
        try:
            address = addresses.parse(request.url)
            addresses.check(address, self._exceptions)
        except BadAddress:
            raise LookUpFailed("blocked") from None
        with self._slots.taken(business_id):
            budget = bounded.Budget(deadline, MAX_BYTES + MAX_HEADER_BYTES)
            ips = self._allowed_ips(business_id, address, budget)
            status, content = self._exchange(address, ips, request, further_headers or {}, budget)
        return rows(status, content, request.result_path)

    def _allowed_ips(self, business_id: str, address: Address, budget: bounded.Budget) -> list[str]:
        """Where to connect. Nothing is asked again after the check, so another answer cannot slip in."""
        # Counted apart: who answers questions for names slowly may not hold the threads that all tenants share.
        key = f"{business_id} resolving"
        self._slots.take(key)
        future = self._resolving.start(lambda: self._resolve(address.host, address.port))
        if future is None:
            self._slots.give(key)
            raise LookUpFailed("busy")
        future.add_done_callback(lambda _: self._slots.give(key))
        try:
            ips = list(future.result(budget.remaining()))
        except TookTooLong:
            raise LookUpFailed("timeout") from None
        except (OSError, UnicodeError):
            raise LookUpFailed("unreachable") from None
        is_excepted = addresses.is_excepted(address, self._exceptions)
        if not ips or not (is_excepted or all(addresses.is_public(ipaddress.ip_address(ip)) for ip in ips)):
            raise LookUpFailed("blocked")
        return ips

    def _exchange(
        self,
        address: Address,
        ips: Sequence[str],
        request: ApiCall,
        further_headers: Mapping[str, str],
        budget: bounded.Budget,
    ) -> _Response:
        scheme, host = address.scheme.encode(), address.host.encode()
        # A connection of its own for each call: a kept one would outlive the check of its address.
        connection = httpcore2.HTTPConnection(
            origin=httpcore2.Origin(scheme, host, address.port),
            ssl_context=self._tls or bounded.trusted(),
            network_backend=_Pinned(bounded.limited(httpcore2.SyncBackend()), ips),
        )
        content = _content(request)
        message = httpcore2.Request(
            request.method,
            httpcore2.URL(scheme=scheme, host=host, port=address.port, target=address.target),
            headers=_headers(address, request.headers, further_headers, content),
            content=content,
            extensions={"timeout": {"connect": CONNECT_SECONDS}},
        )
        try:
            with bounded.within(budget):
                return _answer(connection.handle_request(message))
        except httpcore2.TimeoutException:
            raise LookUpFailed("timeout") from None
        except (httpcore2.NetworkError, httpcore2.ProtocolError, OSError):
            raise LookUpFailed("too_large" if budget.bytes_left < 0 else "unreachable") from None
        finally:
            connection.close()


class _Slots:
    """At most `size` at a time of each key."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._taken: Counter[str] = Counter()

    @contextmanager
    def taken(self, key: str) -> Iterator[None]:
        self.take(key)
        try:
            yield
        finally:
            self.give(key)

    def take(self, key: str) -> None:
        with self._lock:
            if self._taken[key] >= self._size:
                raise LookUpFailed("busy")
            self._taken[key] += 1

    def give(self, key: str) -> None:
        with self._lock:
            self._taken[key] -= 1
            if not self._taken[key]:
                del self._taken[key]


class _Pinned(httpcore2.NetworkBackend):
    """Connects to the given addresses, whatever the host is called; TLS still asks for the host's own name."""

    def __init__(self, inner: httpcore2.NetworkBackend, ips: Sequence[str]) -> None:
        self._inner = inner
        self._ips = ips

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *more: Any, **options: Any
    ) -> httpcore2.NetworkStream:
        problem: Exception = httpcore2.ConnectError(f"{host} has no address")
        for ip in self._ips:
            try:
                stream = self._inner.connect_tcp(ip, port, timeout, *more, **options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                problem = error
                continue
            if _same(stream.get_extra_info("server_addr")[0], ip):
                return stream
            stream.close()
            raise httpcore2.ConnectError("connected to another address")
        raise problem


def rows(status: int, content: bytes, result_path: str = "") -> list[dict[str, Any]]:
    """The answer's part at `result_path` as rows: objects as they are, anything else under `value`. An answer without
    a body is one row with its `status`. Raises LookUpFailed, also for rows of more than MAX_ROWS_BYTES."""
    if not content.strip():
        return [{"status": status}]
    found = templates.find(_json(content), tuple(result_path.split("."))) if result_path else _json(content)
    items = found if isinstance(found, list) else [] if found is None else [found]
    told = [item if isinstance(item, dict) else {"value": item} for item in items]
    if len(encoded(told)) > MAX_ROWS_BYTES:  # many small values grow when each becomes a row
        raise LookUpFailed("too_large")
    return told


def _answer(response: httpcore2.Response) -> _Response:
    if 300 <= response.status < 400:
        raise LookUpFailed("redirect", response.status)
    if not 200 <= response.status < 300:
        raise LookUpFailed("bad_status", response.status)
    packings = [value.strip().lower() for name, value in response.headers if name.lower() == b"content-encoding"]
    if any(packing not in {b"", b"identity"} for packing in packings):
        # Asked for plain; what is packed all the same could be huge when unpacked.
        raise LookUpFailed("not_json")
    content = response.read()
    if len(content) > MAX_BYTES:
        raise LookUpFailed("too_large")
    return response.status, content


def _json(content: bytes) -> Any:
    """The JSON value, whatever its content type; raises LookUpFailed for what could not be handed on as JSON."""
    try:
        value = json.loads(content.decode("utf-8-sig"))
        is_usable = _fits(value, MAX_DEPTH)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        is_usable = False
    if not is_usable:
        raise LookUpFailed("not_json")
    return value


def _fits(value: Any, levels: int) -> bool:
    """Whether lists and objects lie in each other at most so deep."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels >= 0 and all(_fits(item, levels - 1) for item in items)


def _content(request: ApiCall) -> bytes | None:
    return None if request.body is None else templates.as_json(request.body).encode()


def _headers(
    address: Address, headers: Mapping[str, str], further: Mapping[str, str], content: bytes | None
) -> list[tuple[bytes, bytes]]:
    """Ours that a tenant may change, the tenant's, ours that nobody may."""
    told = {"accept": "application/json", "user-agent": "icmp"}
    if content is not None:
        told |= {"content-type": "application/json"}
    told |= {name.lower(): value for name, value in headers.items()}
    told |= {name.lower(): value for name, value in further.items()}
    told |= {"host": address.authority, "accept-encoding": "identity", "connection": "close"}
    if content is not None:
        told |= {"content-length": str(len(content))}
    return [(name.encode(), value.encode()) for name, value in told.items()]


def _same(one: str, other: str) -> bool:
    return ipaddress.ip_address(one) == ipaddress.ip_address(other)
