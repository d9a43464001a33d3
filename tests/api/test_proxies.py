"""Whose address counts: over HTTP behind none, one or two trusted proxies, whatever the caller claims to be."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_network

import pytest
from flask import Flask

import app as application
from api.settings import Settings
from tests.conftest import Client

LOGIN = {"email": "nobody@example.com", "password": "a wrong pass phrase"}


@pytest.fixture(scope="module")
def behind(settings: Settings, serve: Callable[[Flask], int], redis_url: str) -> list[int]:
    """Ports of apps behind 0, 1 and 2 trusted proxies, the nearest on this machine, each with two logins an address."""
    hops = [(), ("127.0.0.0/8",), ("127.0.0.0/8", "10.0.0.0/8")]
    return [
        serve(
            application.create_app(
                replace(
                    settings,
                    trusted_proxies=tuple(map(ip_network, networks)),
                    rate_limit_login_burst=2,
                    # Buckets of their own: those of this machine's address are taken from elsewhere as well.
                    rate_limit_storage_uri=f"{redis_url[:-1]}{number + 1}",
                )
            )
        )
        for number, networks in enumerate(hops)
    ]


def _try(port: int, forwarded_for: str) -> int:
    return Client(port, headers={"X-Forwarded-For": forwarded_for}).post("/api/v1/auth/login", LOGIN).status


def _tries(port: int, *chains: str) -> list[int]:
    return [_try(port, chain) for chain in chains]


def _v6() -> str:
    """The first half of an address that nobody else has."""
    return f"2001:db8:{uuid.uuid4().hex[:4]}:{uuid.uuid4().hex[:4]}"


def test_without_a_trusted_proxy_no_claim_counts(behind: list[int]) -> None:
    assert _tries(behind[0], "198.51.100.1", "198.51.100.2", "198.51.100.3", "127.0.0.1") == [401, 401, 429, 429]


def test_behind_one_proxy_only_the_last_address_counts(behind: list[int]) -> None:
    claims = ("198.51.100.1, 203.0.113.1", "198.51.100.2, 203.0.113.1", "203.0.113.9,127.0.0.1, 203.0.113.1")
    assert _tries(behind[1], *claims) == [401, 401, 429]
    assert _try(behind[1], "203.0.113.1, 203.0.113.2") == 401


def test_one_proxy_too_few_is_no_way_around(behind: list[int]) -> None:
    # 10.0.0.7 is not trusted here: whatever stands before it is a claim of whoever that is.
    assert _tries(behind[1], "198.51.100.4, 10.0.0.7", "198.51.100.5, 10.0.0.7", "10.0.0.7") == [401, 401, 429]


def test_behind_two_proxies_the_address_before_them_counts(behind: list[int]) -> None:
    claims = ("198.51.100.1, 203.0.113.3, 10.0.0.7", "198.51.100.2, 203.0.113.3, 10.0.0.8", "203.0.113.3, 10.0.0.7")
    assert _tries(behind[2], *claims) == [401, 401, 429]
    assert _try(behind[2], "203.0.113.3, 203.0.113.4, 10.0.0.7") == 401


def test_what_is_no_address_hides_what_stands_before_it(behind: list[int]) -> None:
    """The nearest address that is one counts then: here a proxy's."""
    garbage = ("nonsense", "", "203.0.113.", "<script>", "203.0.113.77:99999", "::ffff:", "0x7f.1", "1" * 300)
    for number, text in enumerate(garbage):
        chains = [f"198.51.100.{claim}, {text}, 10.0.1.{number}" for claim in range(3)]
        assert _tries(behind[2], *chains) == [401, 401, 429], text


def test_a_whole_64_of_ipv6_is_one_client(behind: list[int]) -> None:
    here, next_door = _v6(), _v6()
    addresses = (f"{here}::1", f"{here}:ffff:ffff:ffff:ffff", f"{here}:1:2:3:4", f"{next_door}::1")
    assert _tries(behind[1], *addresses) == [401, 401, 429, 401]


def test_an_address_is_the_same_however_it_is_written(behind: list[int]) -> None:
    assert _tries(behind[1], "203.0.113.50", "::ffff:203.0.113.50", "::FFFF:cb00:7132") == [401, 401, 429]
    assert _tries(behind[1], "fe80::1%eth0", "fe80::2%eth1", "fe80::3") == [401, 401, 429]
