"""Addresses that tenants name: read once and strictly, and told apart into those that may be called and all others."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import unquote

MAX_URL = 8192
PORTS = {"http": 80, "https": 443}

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?"
_AUTHORITY = re.compile(rf"({_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]{{2,45}}\])(?::([1-9][0-9]{{0,4}}))?")
_TARGET = r"[A-Za-z0-9._~!$&'()*+,;=:@/%-]*(?:\?[A-Za-z0-9._~!$&'()*+,;=:@/?%\[\]-]*)?"
_URL = re.compile(rf"(https?)://([^/?#]*)((?:/{_TARGET})?)", re.IGNORECASE | re.ASCII)
_ORIGIN = re.compile(r"https?://[^/?#\\{]+(?=[/?#]|$)", re.IGNORECASE)
_SEPARATORS = re.compile(r"[/\\]")

# Python's own is_global lets these through: clouds' metadata, ways to wrap another address, retired and example ranges.
_NEVER = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8", "100.64.0.0/10", "168.63.129.16/32", "192.0.0.0/24", "192.88.99.0/24", "224.0.0.0/4",
        "240.0.0.0/4", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
    )
)  # fmt: skip
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class BadAddress(Exception):
    """The text is no address that may be called; it says why, without the address."""


@dataclass(frozen=True)
class Address:
    """The parts of a URL; `host` is in lower case, an IPv6 address without its brackets; `target` is path and query."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """The host as a Host header has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


def parse(url: str) -> Address:
    """The address in a URL; raises BadAddress. There is no second parser that could read it differently."""
    match = _URL.fullmatch(url) if len(url) <= MAX_URL else None
    if match is None:
        raise BadAddress("it is not http(s)://host[:port]/path[?query] in plain ASCII, percent-encoded")
    scheme, target = match[1].lower(), match[3] or "/"
    host, port = authority(match[2])
    segments = (part for segment in target.partition("?")[0].split("/") for part in _SEPARATORS.split(unquote(segment)))
    if any(segment in {".", ".."} for segment in segments):
        raise BadAddress("its path has a '.' or '..' segment")
    return Address(scheme, host, port or PORTS[scheme], target)


def authority(text: str) -> tuple[str, int | None]:
    """Host and port of `host[:port]`; raises BadAddress."""
    match = _AUTHORITY.fullmatch(text.lower()) if text.isascii() else None
    if match is None or len(match[1]) > 253 or int(match[2] or 0) > 65_535:
        raise BadAddress("its host is not a plain name or address with an optional port")
    host = match[1].strip("[]")
    last = host.rpartition(".")[2]
    if (":" in host or last.isdigit() or last.startswith("0x")) and not _is_ip(host):
        raise BadAddress("its host is a number that is not an ordinary IP address")
    return host, int(match[2]) if match[2] else None


def origin(url: str) -> str | None:
    """Scheme, host and port of a URL or of a template of one, when they are literal; None otherwise."""
    match = _ORIGIN.match(url)
    return match[0].lower() if match else None


def check(address: Address, exceptions: Collection[str]) -> None:
    """Raises BadAddress unless it is https at its own port, or the operator allows more for this host. What a name
    leads to is checked when it is called."""
    if is_excepted(address, exceptions):
        return
    if (address.scheme, address.port) != ("https", 443):
        raise BadAddress("only https at port 443 may be called; the operator allows more in API_CALL_ALLOWED_HOSTS")
    if _is_ip(address.host) and not is_public(ipaddress.ip_address(address.host)):
        raise BadAddress("its host is no public address; the operator allows others in API_CALL_ALLOWED_HOSTS")


def is_excepted(address: Address, exceptions: Collection[str]) -> bool:
    """Whether the operator allows this host: at the port named with it, or at any when none is."""
    named = f"[{address.host}]" if ":" in address.host else address.host
    return named in exceptions or f"{named}:{address.port}" in exceptions


def is_public(ip: IPv4Address | IPv6Address) -> bool:
    """Whether the address belongs to the open internet; one that wraps an IPv4 address counts as that."""
    if isinstance(ip, IPv6Address):
        wrapped = ip.ipv4_mapped or (IPv4Address(int(ip) & 0xFFFF_FFFF) if ip in _NAT64 else None)
        if wrapped is not None:
            return is_public(wrapped)
        if ip not in _GLOBAL_UNICAST:
            return False
    return ip.is_global and not any(ip in network for network in _NEVER)


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
