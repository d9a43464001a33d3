"""Where a tenant's call may go: nowhere but to public hosts and the operator's exceptions."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import pytest

from nlp import addresses, egress
from nlp.egress import Egress
from tests.nlp import egress_calls

PUBLIC = "93.184.216.34"
METADATA = "169.254.169.254"


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Where somebody tried to connect; nobody gets there."""
    tried: list[Any] = []

    def refuse(address: Any, *_arguments: Any, **_options: Any) -> socket.socket:
        tried.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", refuse)
    return tried


# Written so that some parser somewhere reads them as an address of this machine or network.
DISGUISED = [
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0x7f.1/",
    "https://017700000001/",
    "https://0177.0.0.1/",
    "https://127.1/",
    "https://127.0.0.1./",
    "https://127.0.0.1/",
    "https://0.0.0.0/",
    "https://0/",
    "https://[::]/",
    "https://[::1]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:a9fe:a9fe]/",
    "https://[::127.0.0.1]/",
    "https://[64:ff9b::a9fe:a9fe]/",
    "https://[64:ff9b:1::7f00:1]/",
    "https://[2002:7f00:1::]/",
    "https://[2001:0:4136:e378:8000:63bf:80ff:fffe]/",
    "https://[fe80::1%25lo]/",
    "https://[fd00:ec2::254]/",
    "https://[fec0::1]/",
    "https://[ff02::1]/",
    f"https://{METADATA}/latest/meta-data/",
    "https://100.100.100.200/",
    "https://168.63.129.16/",
    "https://192.0.0.192/",
    "https://10.0.0.1/",
    "https://192.168.1.1/",
    "https://224.0.0.1/",
    "https://localhost/",
    "https://LOCALHOST/",
    "https://localhost./",
    f"https://{PUBLIC}@127.0.0.1/",
    "https://user:password@api.example/",
    "https://127.0.0.1\\@api.example/",
    "https://api.example\\@127.0.0.1/",
    "https://api.example#@127.0.0.1/",
    "https://api.example/#fragment",
    "https://api.example /",
    "https://api.example/\r\nX-Injected: 1",
    "https://api.example/\t",
    "https://api.example\x00.evil.example/",
    "https://①②⑦.⓪.⓪.①/",
    "https://１２７.０.０.１/",
    "https://localhoſt/",
    "https://api。example/",
    "https://api..example/",
    "https:///etc/passwd",
    "https:/api.example/",
    "https://api.example:80/",
    "https://api.example:22/",
    "https://api.example:0443/",
    "https://api.example:65536/",
    "https://api.example:443:80/",
    "https://api.example/a/../admin",
    "https://api.example/a/%2e%2e/admin",
    "https://api.example/..%2fadmin",
    "http://api.example/",
    "ftp://api.example/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:6379/_x",
    "//api.example/",
    "",
]


@pytest.mark.parametrize("url", DISGUISED)
def test_nobody_connects_to_an_address_in_disguise(url: str, attempts: list[Any]) -> None:
    def answer(host: str, port: int) -> list[str]:
        return [PUBLIC] if host == "api.example" else egress.resolve(host, port)

    assert egress_calls.refusal(Egress(resolve=answer), egress_calls.request(url)) == "blocked"
    assert attempts == []


# What a name may turn out to be; Python's own is_global calls some of them public.
INSIDE = [
    "127.0.0.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.0.1", METADATA, "100.64.0.1", "100.100.100.200",  # noqa: S104
    "168.63.129.16", "192.0.0.192", "192.0.2.1", "192.88.99.1", "198.18.0.1", "224.0.0.1", "240.0.0.1",
    "255.255.255.255", "::", "::1", "::127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1", "2002:a9fe:a9fe::", "3fff::1", "5f00::1", "fc00::1",
    "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1",
]  # fmt: skip


@pytest.mark.parametrize("ip", INSIDE)
def test_a_name_that_leads_inside_is_refused_even_beside_a_public_address(ip: str, attempts: list[Any]) -> None:
    for found in ([ip], [PUBLIC, ip]):
        client = Egress(resolve=egress_calls.always(found))
        assert egress_calls.refusal(client, egress_calls.request("https://metadata.google.internal/")) == "blocked"
    assert attempts == []


@pytest.mark.parametrize("ip", [PUBLIC, "2606:2800:220:1::1", "::ffff:93.184.216.34", "64:ff9b::5db8:d822"])
def test_public_addresses_are_allowed(ip: str) -> None:
    assert addresses.is_public(ipaddress.ip_address(ip))


def test_a_name_is_asked_for_once_and_only_its_checked_address_is_connected_to(attempts: list[Any]) -> None:
    answers = iter([[PUBLIC], ["127.0.0.1"], ["127.0.0.1"]])
    client = Egress(resolve=lambda _host, _port: next(answers))
    assert egress_calls.refusal(client, egress_calls.request("https://rebinding.example/")) == "unreachable"
    assert attempts == [(PUBLIC, 443)]
    assert egress_calls.refusal(client, egress_calls.request("https://rebinding.example/")) == "blocked"
    assert len(attempts) == 1


def test_an_exception_is_for_its_own_host_and_for_the_port_that_it_names(attempts: list[Any]) -> None:
    call = egress_calls.request("http://127.0.0.1:8080/")
    for exceptions in ({"127.0.0.2"}, {"127.0.0.1:80"}, {"localhost:8080"}):
        assert egress_calls.refusal(Egress(exceptions), call) == "blocked"
    assert attempts == []
    for exceptions in ({"127.0.0.1:8080"}, {"127.0.0.1"}):
        assert egress_calls.refusal(Egress(exceptions), call) == "unreachable"
    assert attempts == [("127.0.0.1", 8080)] * 2
