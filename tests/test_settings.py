"""Settings: every default works, and each wrong value stops the start with one line that names the variable."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from ipaddress import ip_network
from pathlib import Path

import psycopg2.extensions
import pytest

from api.setting_reader import BadSetting
from api.settings import from_environment

KEY = base64.b64encode(bytes(range(32))).decode()
ARN = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
NEEDED = {
    "ICMP_API_KEY": "k" * 32,
    "ENCRYPTION_KEY": f"k1:{KEY}",
    "DATABASE_URL": "postgresql://icmp@db.example/icmp",
}


def test_three_settings_are_enough() -> None:
    settings = from_environment(NEEDED)
    assert settings.is_offline
    assert settings.openai_model == "icmp-offline"
    assert settings.migration_database_url == settings.database_url == NEEDED["DATABASE_URL"]
    assert settings.encryption_keys == (("k1", bytes(range(32))),)
    assert (settings.allowed_origins, settings.trusted_proxies) == (frozenset(), ())
    assert (settings.host, settings.port, settings.log_level) == ("127.0.0.1", 8000, "INFO")


def test_an_empty_value_counts_as_not_set() -> None:
    optional = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_MODEL", "PORT", "LOG_LEVEL", "ALLOWED_ORIGINS")
    assert from_environment(NEEDED | dict.fromkeys(optional, " ")) == from_environment(NEEDED)


def test_lists_are_read_as_browsers_and_proxies_write_them() -> None:
    lists = {"ALLOWED_ORIGINS": " https://Shop.Example/ , http://localhost:3000,", "TRUSTED_PROXIES": "10.0.0.0/8, ::1"}
    settings = from_environment(NEEDED | lists | {"ENCRYPTION_KEY": f"new:{KEY}, old:{KEY}"})
    assert settings.allowed_origins == {"https://shop.example", "http://localhost:3000"}
    assert settings.trusted_proxies == (ip_network("10.0.0.0/8"), ip_network("::1"))
    assert [key_id for key_id, _ in settings.encryption_keys] == ["new", "old"]


@pytest.mark.parametrize("host", ["db.example", "10.1.2.3", "::1", "/var/run/postgresql"])
def test_the_parts_of_a_database_address_come_through_as_given(host: str) -> None:
    parts = {"DB_HOST": host, "DB_PORT": "5433", "DB_NAME": "a/b c", "DB_USER": "o'neil", "DB_PASSWORD": "p@ss:/w?&%#"}
    url = from_environment(NEEDED | {"DATABASE_URL": ""} | parts).database_url
    read = psycopg2.extensions.parse_dsn(url)
    assert read == {"host": host, "port": "5433", "dbname": "a/b c", "user": "o'neil", "password": "p@ss:/w?&%#"}


@pytest.mark.parametrize(
    "uri",
    [
        *("redis://a", "redis://:secret@a:6379/15", "rediss://user:secret@a.example/", "valkey://a:1", "valkeys://a"),
        *("redis://[::1]:6379/0", "unix:///run/valkey.sock?db=1", "rediss://a?ssl_ca_certs=/etc/ca.pem"),
    ],
)
def test_buckets_live_wherever_redis_or_valkey_answers(uri: str) -> None:
    assert from_environment(NEEDED | {"RATE_LIMIT_STORAGE_URI": f" {uri} "}).rate_limit_storage_uri == uri


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (
            "ICMP_API_KEY",
            ["", "short", "k" * 15, "k" * 31 + "é", "k" * 20 + " " + "k" * 20, "k" * 20 + "\n" + "k" * 20],
        ),
        (
            "ENCRYPTION_KEY",
            ["", KEY, "k1:", "k1:short", f":{KEY}", f"k1:{KEY[:-2]}", f"k1:{KEY}é", f"k1:{KEY},", f"a:{KEY},a:{KEY}"],
        ),
        (
            "KMS_KEY_ID",
            ["alias/icmp", ARN.rpartition("/")[2], ARN.replace(":key/", ":alias/"), f"{ARN},{ARN}", ARN + "/"],
        ),
        ("KMS_UNWRAP_KEY_IDS", ["k1", f"{ARN};{ARN}"]),
        ("KMS_ENDPOINT_URL", ["kms.example", "ftp://kms.example"]),
        ("DATABASE_URL", ["", "db.example", "mysql://db.example/icmp", "http://[", "host=db.example"]),
        (
            "RATE_LIMIT_STORAGE_URI",
            [
                *("redis", "redis.example:6379", "memory://", "memcached://a", "http://a", "redis://", "redis://:6379"),
                *("redis://a:b", "redis://a:99999", "redis://a/x", "redis://a/1/2", "redis://[", "unix://", "unix:///"),
                *("unix://a/b", "redis://a?unknown=1", "redis://a?socket_timeout=x", "redis+cluster://a"),
            ],
        ),
        ("MIGRATION_DATABASE_URL", ["db.example", "host=db.example"]),
        (
            "OPENAI_BASE_URL",
            ["model.example", "ftp://model.example", "http://", "http://[", "http://a:99999", "http://a:b"],
        ),
        (
            "ALLOWED_ORIGINS",
            [
                *("*", "null", "shop.example", "ws://a", "https://", "https://[", "https://a/b", "https://a?b"),
                *("https://a#b", "https://u:p@a", "https://a:443", "http://a:80", "https://a:", "https://a,*"),
            ],
        ),
        ("TRUSTED_PROXIES", ["proxy.example", "10.0.0.1/8", "10.0.0.0/33", "*", "10.0.0.1;10.0.0.2"]),
        ("PORT", ["0", "65536", "-1", "80.5", "http", "nan", "inf"]),
        ("WEB_CONCURRENCY", ["0", "65", "many"]),
        ("WEB_THREADS", ["0", "1001"]),
        ("DB_POOL_SIZE", ["0", "201"]),
        ("MODEL_CALL_TIMEOUT_S", ["0", "-1", "601", "nan", "20s"]),
        ("TURN_TIMEOUT_S", ["0", "901"]),
        ("HISTORY_TOKENS", ["-1", "200001", "1.5"]),
        ("SESSION_TIMEOUT_MINUTES", ["0", "525601"]),
        ("LOG_LEVEL", ["loud", "0"]),
        ("LOG_STDOUT", ["yes", "2"]),
        ("LOG_HTTP_URL", ["elk.example", "ftp://elk.example", "http://"]),
        ("OPENAI_API_KEY", ["schl\u00fcssel", "abc\ndef"]),
        ("OPENAI_BASE_URL", ["http://127.0.0.1 x:8690/v1", "http://m\u00fcnchen.example/v1"]),
        ("ALLOWED_ORIGINS", ["https://*.shop.example", "https://a b", "https://m\u00fcnchen.example"]),
        ("LOG_HTTP_FORMAT", ["splunk", "elastic search"]),
        ("LOG_HTTP_INDEX", ["Logs", "_logs", "logs/2026", "logs*", "-logs", "l" * 256]),
        ("LOG_HTTP_AUTHORIZATION", ["ApiKey é", "ApiKey a\nHost: b"]),
        ("METRICS_KEY", ["short", "k" * 15, "k" * 20 + " " + "k" * 20, "k" * 31 + "é"]),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", ["collector:4318", "grpc://collector:4317"]),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_variable(name: str, values: list[str]) -> None:
    for value in values:
        with pytest.raises(BadSetting) as refused:
            from_environment(NEEDED | {name: value})
        assert name in str(refused.value), value
        assert str(refused.value).isprintable()


def test_kms_alone_is_enough_and_beside_local_keys_it_comes_first() -> None:
    without = {name: value for name, value in NEEDED.items() if name != "ENCRYPTION_KEY"}
    former = ARN.replace("/", "/mrk-")
    alone = from_environment(without | {"KMS_KEY_ID": ARN, "KMS_UNWRAP_KEY_IDS": f"{former}, {ARN}"})
    assert (alone.kms_key_id, alone.kms_unwrap_key_ids) == (ARN, (former, ARN))
    assert (alone.keyring().active_id, set(alone.keyring().keys)) == (ARN, {ARN, former})
    beside = from_environment(NEEDED | {"KMS_KEY_ID": ARN}).keyring()
    assert (beside.active_id, set(beside.keys)) == (ARN, {ARN, "k1"})
    leaving = from_environment(NEEDED | {"KMS_UNWRAP_KEY_IDS": ARN}).keyring()
    assert (leaving.active_id, set(leaving.keys)) == ("k1", {ARN, "k1"})
    with pytest.raises(BadSetting, match="ENCRYPTION_KEY is missing"):
        from_environment(without | {"KMS_UNWRAP_KEY_IDS": ARN})


def test_no_secret_is_repeated_in_the_complaint() -> None:
    for wrong in (
        {"ENCRYPTION_KEY": "k1:zanzibar"},
        {"ICMP_API_KEY": "zanzibar"},
        {"DATABASE_URL": "mysql://icmp:zanzibar@db"},
        {"OPENAI_BASE_URL": "ftp://me:zanzibar@model.example"},
        {"RATE_LIMIT_STORAGE_URI": "redis://:zanzibar@a:b"},
        {"LOG_HTTP_URL": "ftp://me:zanzibar@elk.example"},
        {"LOG_HTTP_AUTHORIZATION": "ApiKey zanzibar\u00e9"},
        {"METRICS_KEY": "zanzibar"},
    ):
        with pytest.raises(BadSetting) as refused:
            from_environment(NEEDED | wrong)
        assert "zanzibar" not in str(refused.value)


def test_the_app_itself_stops_with_that_line() -> None:
    # Set to nothing, a variable is not taken from a developer's .env.
    env = {**NEEDED, "ICMP_API_KEY": "", "PATH": os.environ["PATH"]}
    started = subprocess.run(
        [sys.executable, "-c", "import app; app.create_app()"],
        cwd=Path(__file__).parents[1],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert started.returncode == 3  # gunicorn then starts it no more
    assert started.stderr.startswith("ICMP cannot start: ICMP_API_KEY is missing")
    assert started.stderr.count("\n") == 1
