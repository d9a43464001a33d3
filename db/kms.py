"""Wrapping keys that never leave AWS KMS: this process sends it data keys to seal and to open."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from db.cipher import Keyring, Undecryptable, WrappingKey
from db.errors import KeysUnavailable

log = logging.getLogger(__name__)

_CONNECT_SECONDS = 2
_READ_SECONDS = 5
_ATTEMPTS = 2
# A service that failed is left alone for so long, and then asked by one caller first: whoever waits for it holds a
# database connection.
_REST_SECONDS = 2.0
_NOT_OURS = {"InvalidCiphertextException", "IncorrectKeyException"}


def keyring(
    local: tuple[tuple[str, bytes], ...], kms_key_id: str | None, unwrap_ids: tuple[str, ...], endpoint_url: str | None
) -> Keyring:
    """All wrapping keys that the settings name. `kms_key_id` is active when it is set, else the first local one; the
    others open what they once sealed."""
    arns = dict.fromkeys([*([kms_key_id] if kms_key_id else []), *unwrap_ids])
    keys: dict[str, WrappingKey] = dict(Keyring.of(local).keys) if local else {}
    return Keyring(keys | {arn: AwsKey(arn, endpoint_url) for arn in arns}, kms_key_id or local[0][0])


class AwsKey:
    """A symmetric key of AWS KMS, named by its ARN. Credentials come the usual ways of AWS's own library. Safe to share
    between threads and over fork before its first use."""

    def __init__(self, arn: str, endpoint_url: str | None = None) -> None:
        self._arn = arn
        self._endpoint_url = endpoint_url
        self._lock = threading.Lock()
        self._client: Any = None
        self._has_failed = False
        self._rests_until = 0.0

    def wrap(self, key: bytes, purpose: str) -> bytes:
        """The key, sealed by KMS. Raises KeysUnavailable."""
        context = {"icmp": purpose}
        sealed: bytes = self._ask(
            lambda kms: kms.encrypt(KeyId=self._arn, Plaintext=key, EncryptionContext=context)["CiphertextBlob"]
        )
        return sealed

    def unwrap(self, wrapped: bytes, purpose: str) -> bytes:
        """The key, opened by KMS. Raises Undecryptable and KeysUnavailable."""
        context = {"icmp": purpose}
        key: bytes = self._ask(
            lambda kms: kms.decrypt(KeyId=self._arn, CiphertextBlob=wrapped, EncryptionContext=context)["Plaintext"]
        )
        return key

    def _ask(self, question: Callable[[Any], Any]) -> Any:
        # Imported here: it takes a third of a second and 30 MB, which those without KMS need not spend.
        from botocore.exceptions import BotoCoreError, ClientError

        self._take_turn()
        try:
            answer = question(self._connected())
        except (BotoCoreError, ClientError) as error:
            response: dict[str, Any] = getattr(error, "response", {})
            reason = response.get("Error", {}).get("Code", type(error).__name__)
            if reason in _NOT_OURS:
                self._has_failed = False
                raise Undecryptable("KMS says: another key, or the wrapped key was moved or altered") from error
            self._note_failure()
            log.error("AWS KMS cannot be used: %s", reason)
            raise KeysUnavailable(f"AWS KMS cannot be used: {reason}") from error
        self._has_failed = False
        return answer

    def _take_turn(self) -> None:
        with self._lock:
            if not self._has_failed:
                return
            if time.monotonic() < self._rests_until:
                raise KeysUnavailable("AWS KMS did not answer a moment ago")
            self._rests_until = time.monotonic() + _REST_SECONDS

    def _note_failure(self) -> None:
        with self._lock:
            self._has_failed = True
            self._rests_until = time.monotonic() + _REST_SECONDS

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                import boto3
                from botocore.config import Config

                self._client = boto3.session.Session().client(
                    "kms",
                    region_name=self._arn.split(":")[3],
                    endpoint_url=self._endpoint_url,
                    config=Config(
                        connect_timeout=_CONNECT_SECONDS,
                        read_timeout=_READ_SECONDS,
                        retries={"total_max_attempts": _ATTEMPTS, "mode": "standard"},
                        max_pool_connections=50,
                    ),
                )
            return self._client
