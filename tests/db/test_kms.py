"""AWS KMS as the wrapping key, against a server that speaks its protocol on this machine."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

import db
from api.settings import Settings
from db import keys, kms
from db.cipher import Undecryptable
from tests.api import shop
from tests.conftest import Client, onboard
from tests.db import own_database
from tests.db.own_database import OwnDatabase, Serve

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_EC2_METADATA_DISABLED": "true",
    "NO_PROXY": "127.0.0.1",
}
OPENED = "platform secrets wrapped anew: 2\ndata keys wrapped anew: 1\n"


class Service:
    """A key management service that can be stopped and started again; it keeps its keys."""

    def __init__(self) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Answer from now on."""
        self._server = ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self._server.start()

    def stop(self) -> None:
        """Refuse connections from now on."""
        server = self._server._server
        self._server.stop()
        assert server is not None
        server.server_close()

    def make_key(self) -> str:
        """A new key's ARN."""
        client = boto3.client("kms", region_name="eu-central-1", endpoint_url=self.url)
        return str(client.create_key()["KeyMetadata"]["Arn"])


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        made = Service()
        yield made
        made.stop()


@pytest.fixture
def arn(service: Service) -> str:
    return service.make_key()


@pytest.fixture
def house(settings: Settings, serve: Serve, service: Service) -> Iterator[OwnDatabase]:
    with own_database.made(settings, serve) as made:
        yield made


def _by_kms(service: Service, arn: str, **changes: Any) -> dict[str, Any]:
    """Settings with KMS alone."""
    return {"encryption_keys": (), "kms_key_id": arn, "kms_endpoint_url": service.url, **changes}


def _shop(house: OwnDatabase, **changes: Any) -> tuple[Client, str]:
    """A business with one message: its client and the message's path."""
    client = onboard(house.master(**changes), "Shop")
    shop.furnish(client, shop.SMALL_TALK)
    return client, f"/api/v1/messages/{shop.write(client, 'Hello').body['message_id']}"


def _wrapped_by(house: OwnDatabase) -> set[str]:
    union = "SELECT wrapping_key_id FROM data_keys UNION SELECT wrapping_key_id FROM platform_secrets"
    return {name for (name,) in house.sql(union)}


def test_a_key_sealed_by_kms_opens_for_its_purpose_only(service: Service, arn: str) -> None:
    key = kms.AwsKey(arn, service.url)
    sealed = key.wrap(b"k" * 32, "one business")
    assert b"k" * 8 not in sealed
    assert key.unwrap(sealed, "one business") == b"k" * 32
    with pytest.raises(Undecryptable):
        key.unwrap(sealed, "another business")
    with pytest.raises(Undecryptable):
        key.unwrap(sealed[:-1] + bytes([sealed[-1] ^ 1]), "one business")


def test_a_key_that_kms_does_not_have_is_no_fault_of_the_data(service: Service, arn: str) -> None:
    stranger = kms.AwsKey(arn.rpartition("/")[0] + "/00000000-0000-0000-0000-000000000000", service.url)
    with pytest.raises(db.KeysUnavailable, match="NotFoundException"):
        stranger.wrap(b"k" * 32, "purpose")


def test_kms_alone_is_enough_to_run_on(house: OwnDatabase, service: Service, arn: str) -> None:
    chosen = _by_kms(service, arn)
    client, path = _shop(house, **chosen)
    assert _wrapped_by(house) == {arn}
    assert house.get(path, client.key, **chosen).body["message_content"] == "Hello"
    assert house.get("/readyz", **chosen).status == 200


def test_the_way_into_kms_and_back_loses_nothing(house: OwnDatabase, service: Service, arn: str) -> None:
    local = house.settings.encryption_keys
    client, path = _shop(house)
    beside = _by_kms(service, arn, encryption_keys=local)
    assert house.run("rotate-keys", **beside) == (0, OPENED)
    alone = _by_kms(service, arn)
    assert _wrapped_by(house) == {arn}
    assert house.get(path, client.key, **alone).body["message_content"] == "Hello"
    assert house.get("/readyz").body["checks"]["encryption_key"] == "does not fit the data"

    leaving = {"kms_unwrap_key_ids": (arn,), "kms_endpoint_url": service.url}
    assert house.get(path, client.key, **leaving).body["message_content"] == "Hello"
    assert house.run("rotate-keys", **leaving) == (0, OPENED)
    assert _wrapped_by(house) == {local[0][0]}
    assert house.get(path, client.key).body["message_content"] == "Hello"


def test_one_key_of_kms_follows_another(house: OwnDatabase, service: Service, arn: str) -> None:
    client, path = _shop(house, **_by_kms(service, arn))
    new = service.make_key()
    assert house.run("rotate-keys", **_by_kms(service, new, kms_unwrap_key_ids=(arn,))) == (0, OPENED)
    assert _wrapped_by(house) == {new}
    assert house.get(path, client.key, **_by_kms(service, new)).body["message_content"] == "Hello"


def test_while_kms_is_down_kept_keys_go_on_and_then_it_is_a_503(
    house: OwnDatabase, service: Service, arn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kms, "_REST_SECONDS", 0.2)
    monkeypatch.setattr(keys, "_CHECK_SECONDS", 0.0)
    client, path = _shop(house, **_by_kms(service, arn))
    service.stop()
    try:
        assert client.get(path).status == 200
        ready = client.get("/readyz")
        assert (ready.status, ready.body["checks"]["encryption_key"]) == (503, "unavailable")
        # Five minutes later.
        monkeypatch.setattr(keys, "CACHE_SECONDS", 0.0)
        refused = client.get(path)
        assert (refused.status, refused.error_code) == (503, "SERVER_ERROR")
        assert refused.body["message"] == "The key management service cannot be used at the moment"
        assert int(refused.headers["Retry-After"]) > 0
        code, words = house.run("rotate-keys", **_by_kms(service, _another(arn), kms_unwrap_key_ids=(arn,)))
        assert (code, "AWS KMS" in words, "Traceback" in words) == (1, True, False)
    finally:
        service.start()
    deadline = time.monotonic() + 20
    while client.get("/readyz").status != 200 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert client.get(path).status == 200


def _another(arn: str) -> str:
    """Some other key's ARN."""
    return arn.rpartition("/")[0] + "/11111111-1111-1111-1111-111111111111"


def test_a_service_that_failed_is_left_alone_for_a_while(service: Service, arn: str) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        key = kms.AwsKey(arn, f"http://127.0.0.1:{nobody.getsockname()[1]}")
        with pytest.raises(db.KeysUnavailable, match="EndpointConnectionError"):
            key.wrap(b"k" * 32, "purpose")
        with pytest.raises(db.KeysUnavailable, match="a moment ago"):
            key.wrap(b"k" * 32, "purpose")


def test_without_credentials_it_is_said_so(service: Service, arn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(db.KeysUnavailable, match="NoCredentialsError"):
        kms.AwsKey(arn, service.url).wrap(b"k" * 32, "purpose")


def test_the_library_of_aws_is_loaded_only_when_it_is_used() -> None:
    program = "import sys, app; from db import kms; kms.AwsKey('a:b:c:d:e:f'); sys.exit('boto3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
