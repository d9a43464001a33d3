"""The settings of one process: names, defaults and checks. `app.py` hands the environment in; nobody else reads it."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import quote

from api.setting_reader import PORTS, BadSetting, Reader, web_address
from db import kms
from db.cipher import Keyring
from nlp import addresses

Network = IPv4Network | IPv6Network
MIN_KEY = 16  # characters of a secret that people choose
OFFLINE_MODEL = "icmp-offline"
DEFAULT_MODEL = "gpt-5.4-mini"
_KEY_ARN = re.compile(r"arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key/[A-Za-z0-9-]+")


@dataclass(frozen=True)
class Settings:
    """Everything the process is told from outside. Times in seconds unless the name says minutes."""

    icmp_api_key: str
    encryption_keys: tuple[tuple[str, bytes], ...]  # (key id, 32 bytes); the first one wraps, unless KMS does
    kms_key_id: str | None
    kms_unwrap_key_ids: tuple[str, ...]
    kms_endpoint_url: str | None
    database_url: str
    migration_database_url: str
    openai_api_key: str | None
    openai_base_url: str | None
    openai_model: str
    model_call_timeout_s: float
    turn_timeout_s: float
    turn_lease_s: float
    compresses_ledger: bool
    queue_wait_s: float
    history_tokens: int
    rate_limit_storage_uri: str | None
    rate_limit_messages_per_minute: int
    rate_limit_login_burst: int
    rate_limit_login_per_minute: int
    session_timeout_minutes: int
    allowed_origins: frozenset[str]
    api_call_allowed_hosts: frozenset[str]
    trusted_proxies: tuple[Network, ...]
    log_level: str
    log_stdout: bool
    log_http_url: str | None
    log_http_format: str
    log_http_index: str
    log_http_authorization: str | None
    metrics_key: str | None
    otel_exporter_otlp_endpoint: str | None
    data_dir: Path
    host: str
    port: int
    web_concurrency: int
    web_threads: int
    turns_at_once: int
    db_pool_size: int

    @property
    def is_offline(self) -> bool:
        """True when the offline model answers: no key and no other server is set."""
        return self.openai_api_key is None and self.openai_base_url is None

    def keyring(self) -> Keyring:
        """The wrapping keys of ENCRYPTION_KEY and KMS; asks nobody yet."""
        return kms.keyring(self.encryption_keys, self.kms_key_id, self.kms_unwrap_key_ids, self.kms_endpoint_url)


def from_environment(env: Mapping[str, str]) -> Settings:
    """Read every setting from `env`; raises BadSetting with one line naming the variable at fault."""
    reader = Reader(env)
    database_url = _database_url(reader)
    openai_api_key, openai_base_url = reader.header("OPENAI_API_KEY"), reader.url("OPENAI_BASE_URL")
    offline = openai_api_key is None and openai_base_url is None
    return Settings(
        icmp_api_key=_master_key(reader),
        encryption_keys=_encryption_keys(reader),
        kms_key_id=next(iter(_key_arns(reader, "KMS_KEY_ID")), None),
        kms_unwrap_key_ids=_key_arns(reader, "KMS_UNWRAP_KEY_IDS"),
        kms_endpoint_url=reader.url("KMS_ENDPOINT_URL"),
        database_url=database_url,
        migration_database_url=reader.database_url("MIGRATION_DATABASE_URL") or database_url,
        openai_api_key=openai_api_key,
        openai_base_url=openai_base_url,
        openai_model=OFFLINE_MODEL if offline else (reader.text("OPENAI_MODEL") or DEFAULT_MODEL),
        model_call_timeout_s=reader.number("MODEL_CALL_TIMEOUT_S", 20, low=0.1, high=600),
        turn_timeout_s=reader.number("TURN_TIMEOUT_S", 45, low=0.1, high=900),
        turn_lease_s=reader.number("TURN_LEASE_S", 15, low=0.5, high=600),
        compresses_ledger=reader.choice("LEDGER_COMPRESSION", "1", {"0", "1"}) == "1",
        queue_wait_s=reader.number("QUEUE_WAIT_S", 60, low=0.1, high=600),
        history_tokens=reader.whole("HISTORY_TOKENS", 3000, low=0, high=200_000),
        rate_limit_storage_uri=_storage_uri(reader),
        rate_limit_messages_per_minute=reader.whole("RATE_LIMIT_MESSAGES_PER_MINUTE", 30, low=1, high=1_000_000),
        rate_limit_login_burst=reader.whole("RATE_LIMIT_LOGIN_BURST", 10, low=1, high=1_000_000),
        rate_limit_login_per_minute=reader.whole("RATE_LIMIT_LOGIN_PER_MINUTE", 1, low=1, high=1_000_000),
        session_timeout_minutes=reader.whole("SESSION_TIMEOUT_MINUTES", 30, low=1, high=525_600),
        allowed_origins=_origins(reader),
        api_call_allowed_hosts=_hosts(reader),
        trusted_proxies=_networks(reader),
        data_dir=Path(reader.text("DATA_DIR") or ".data"),
        **_watching(reader),
        **_serving(reader),
    )


def _watching(reader: Reader) -> dict[str, Any]:
    return {
        "log_level": reader.choice("LOG_LEVEL", "INFO", {"DEBUG", "INFO", "WARNING", "ERROR"}),
        "log_stdout": reader.choice("LOG_STDOUT", "1", {"0", "1"}) == "1",
        "log_http_url": reader.url("LOG_HTTP_URL"),
        "log_http_format": reader.choice("LOG_HTTP_FORMAT", "ELASTICSEARCH", {"ELASTICSEARCH", "LOGSTASH"}).lower(),
        "log_http_index": _index(reader),
        "log_http_authorization": reader.header("LOG_HTTP_AUTHORIZATION"),
        "metrics_key": _metrics_key(reader),
        "otel_exporter_otlp_endpoint": reader.url("OTEL_EXPORTER_OTLP_ENDPOINT"),
    }


def _serving(reader: Reader) -> dict[str, Any]:
    return {
        "host": reader.text("BIND_HOST") or "127.0.0.1",
        "port": reader.whole("PORT", 8000, low=1, high=65_535),
        "web_concurrency": reader.whole("WEB_CONCURRENCY", 2, low=1, high=64),
        "web_threads": reader.whole("WEB_THREADS", 400, low=1, high=1000),
        "turns_at_once": reader.whole("TURNS_AT_ONCE", 360, low=1, high=1000),
        "db_pool_size": reader.whole("DB_POOL_SIZE", 8, low=1, high=200),
    }


def _master_key(reader: Reader) -> str:
    key = reader.text("ICMP_API_KEY")
    if key is None:
        raise BadSetting("ICMP_API_KEY is missing: set the master key (16 characters or more)")
    if len(key) < MIN_KEY:
        raise BadSetting(f"ICMP_API_KEY is too short: {len(key)} characters, at least {MIN_KEY} are needed")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise BadSetting("ICMP_API_KEY must be printable ASCII without blanks: it travels in a header")
    return key


def _metrics_key(reader: Reader) -> str | None:
    key = reader.header("METRICS_KEY")
    if key is not None and (len(key) < MIN_KEY or " " in key):
        raise BadSetting(f"METRICS_KEY must be {MIN_KEY} characters or more, without blanks")
    return key


def _index(reader: Reader) -> str:
    index = reader.text("LOG_HTTP_INDEX") or "logs-icmp-default"
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,254}", index):
        raise BadSetting("LOG_HTTP_INDEX is no name of an index: lower case letters, digits, '.', '_' and '-'")
    return index


def _encryption_keys(reader: Reader) -> tuple[tuple[str, bytes], ...]:
    text, keys = reader.text("ENCRYPTION_KEY"), []
    if text is None and reader.text("KMS_KEY_ID") is None:
        raise BadSetting("ENCRYPTION_KEY is missing: set id:base64 of 32 random bytes, or KMS_KEY_ID")
    for part in text.split(",") if text else []:
        key_id, _, encoded = part.strip().partition(":")
        try:
            key = base64.b64decode(encoded, validate=True)
        except ValueError:
            key = b""
        if not key_id or len(key_id) > 64 or len(key) != 32:
            raise BadSetting("ENCRYPTION_KEY is not id:base64[,id:base64…] with 32 bytes a key")
        keys.append((key_id, key))
    if len({key_id for key_id, _ in keys}) != len(keys):
        raise BadSetting("ENCRYPTION_KEY names one key id twice")
    return tuple(keys)


def _key_arns(reader: Reader, name: str) -> tuple[str, ...]:
    """ARNs of keys of AWS KMS. An alias would not do: it may name another key tomorrow."""
    arns = reader.parts(name)
    for arn in arns:
        if not _KEY_ARN.fullmatch(arn):
            raise BadSetting(f"{name} holds {arn!r}; write arn:aws:kms:<region>:<account>:key/<id>")
    if name == "KMS_KEY_ID" and len(arns) > 1:
        raise BadSetting("KMS_KEY_ID names one key; former ones belong into KMS_UNWRAP_KEY_IDS")
    return tuple(arns)


def _database_url(reader: Reader) -> str:
    url = reader.database_url("DATABASE_URL")
    if url is not None:
        return url
    host = reader.text("DB_HOST")
    if host is None:
        raise BadSetting(
            "DATABASE_URL is missing: set it, or DB_HOST, DB_PORT, DB_NAME, DB_USER and DB_PASSWORD;"
            " `make run` brings one along, which commands find while it runs"
        )
    port = reader.whole("DB_PORT", 5432, low=1, high=65_535)
    user, password = quote(reader.text("DB_USER") or "postgres", safe=""), reader.text("DB_PASSWORD")
    login = user if password is None else f"{user}:{quote(password, safe='')}"
    # Quoted, a socket's folder and an IPv6 address are hosts like any other.
    return f"postgresql://{login}@{quote(host, safe='')}:{port}/{quote(reader.text('DB_NAME') or 'icmp', safe='')}"


def _storage_uri(reader: Reader) -> str | None:
    """The address of a Redis or Valkey; never repeated in the complaint, for it may hold a password."""
    uri = reader.text("RATE_LIMIT_STORAGE_URI")
    if uri is None:
        return None
    # The client's package is heavy, and most servers do without.
    from db import redis_buckets

    if not redis_buckets.is_address(uri):
        raise BadSetting(
            "RATE_LIMIT_STORAGE_URI is not redis://, rediss://, valkey:// or valkeys://host[:port][/number], nor"
            " unix:///path"
        )
    return uri


def _origins(reader: Reader) -> frozenset[str]:
    """As browsers write them: in lower case, without the scheme's own port."""
    origins = [part.rstrip("/").lower() for part in reader.parts("ALLOWED_ORIGINS")]
    for origin in origins:
        parts = web_address(origin)
        if parts is None or origin != f"{parts.scheme}://{parts.netloc}" or "@" in origin:
            raise BadSetting(f"ALLOWED_ORIGINS holds {origin!r}; an origin is http(s)://host[:port]")
        if parts.port == PORTS[parts.scheme]:
            raise BadSetting(f"ALLOWED_ORIGINS holds {origin!r}; browsers leave out the port {parts.port} there")
    return frozenset(origins)


def _hosts(reader: Reader) -> frozenset[str]:
    """The hosts that stages may call although they are private, or without TLS."""
    hosts = [part.lower() for part in reader.parts("API_CALL_ALLOWED_HOSTS")]
    for host in hosts:
        try:
            addresses.authority(host)
        except addresses.BadAddress:
            raise BadSetting(f"API_CALL_ALLOWED_HOSTS holds {host!r}; write host or host:port") from None
    return frozenset(hosts)


def _networks(reader: Reader) -> tuple[Network, ...]:
    """The proxies whose X-Forwarded-For is believed: addresses or CIDR ranges, comma separated."""
    try:
        return tuple(ip_network(part) for part in reader.parts("TRUSTED_PROXIES"))
    except ValueError as problem:
        raise BadSetting(f"TRUSTED_PROXIES is not a list of addresses or networks: {problem}") from None
