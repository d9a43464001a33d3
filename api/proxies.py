"""Who really called, and over what: told by the proxies in front of us, believed only from those we trust."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from flask import request

from api.settings import Network

Address = IPv4Address | IPv6Address
LONGEST_ADDRESS = 64  # the longest of IPv6 has 45 characters, and perhaps the name of a link


@dataclass(frozen=True)
class TrustedProxies:
    """WSGI in front of the app: REMOTE_ADDR and the scheme as trusted proxies tell them. The proxies must pass on the
    Host header as it came; X-Forwarded-Host is never believed."""

    app: WSGIApplication
    networks: Sequence[Network]

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """One request."""
        peer = _address(environ.get("REMOTE_ADDR", ""))
        if peer is not None and self._is_trusted(peer):
            environ["REMOTE_ADDR"] = str(self._client(peer, environ.get("HTTP_X_FORWARDED_FOR", "")))
            # The last value is the one that the proxy next to us wrote.
            scheme = environ.get("HTTP_X_FORWARDED_PROTO", "").rpartition(",")[2].strip().lower()
            if scheme in {"http", "https"}:
                environ["wsgi.url_scheme"] = scheme
        return self.app(environ, start_response)

    def _client(self, peer: Address, forwarded_for: str) -> Address:
        """The nearest address that is none of our proxies; what stands to its left is the caller's own invention."""
        client = peer
        for text in reversed(forwarded_for.split(",")):
            address = _address(text.strip())
            if address is None:
                return client
            client = address
            if not self._is_trusted(client):
                return client
        return client

    def _is_trusted(self, address: Address) -> bool:
        return any(address in network for network in self.networks)


def client_network(v4_bits: int = 32, v6_bits: int = 64) -> str:
    """The network that the current request came from. A /64 is what one customer of IPv6 gets: whoever has it has
    all its addresses."""
    address = _address(request.remote_addr)
    if address is None:
        return "unknown"  # over a socket that has no addresses
    bits = v4_bits if address.version == 4 else v6_bits
    # By number: an address of a local link may carry the name of the link.
    return str(ip_network((int(address) if address.version == 4 else address.packed, bits), strict=False))


def _address(text: str | None) -> Address | None:
    return _parsed(text) if text and len(text) <= LONGEST_ADDRESS else None


@functools.lru_cache(maxsize=4096)
def _parsed(text: str) -> Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
