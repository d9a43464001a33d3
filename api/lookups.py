"""What a turn's stage looks up: rows of the database or another server's answer. Each look-up connects for itself."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import db
from api.parts import Parts
from db import lookups
from nlp import addresses
from nlp.data_retrieval import BODIED, KIND, ApiCall, DatabaseQuery, Request
from nlp.errors import LookUpFailed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Looker:
    """Looks up for one turn of one customer; `user_id` None means that no customer is known."""

    parts: Parts
    business_id: str
    user_id: str | None
    turn_id: str

    def __call__(self, request: Request) -> list[dict[str, Any]]:
        """The rows; raises LookUpFailed."""
        try:
            if isinstance(request, DatabaseQuery):
                with self.parts.traces.look_up("database_query"):
                    return self._rows(request)
            with self.parts.traces.look_up("api_call"):
                return self._called(request)
        except (lookups.TooLarge, lookups.TooSlow) as error:
            raise LookUpFailed("too_large" if isinstance(error, lookups.TooLarge) else "timeout") from None
        except db.DatabaseUnavailable as error:
            raise LookUpFailed("unreachable") from error
        except LookUpFailed as error:
            if error.reason == "blocked":
                log.warning("a stage's api_call was blocked", extra={"business_id": self.business_id})
            raise

    def _rows(self, query: DatabaseQuery) -> list[dict[str, Any]]:
        is_theirs = query.source == "users" or (query.source == "orders" and not query.any_customer)
        if is_theirs and self.user_id is None:
            return []
        with self.parts.database.transaction(self.business_id) as conn:
            if query.source == "users":
                cipher = self.parts.key_store.cipher(conn, self.business_id)
                return lookups.find_customer(
                    conn, self.business_id, cipher, self.user_id or "", where=query.where, fields=query.fields
                )
            return lookups.find_rows(
                conn,
                self.business_id,
                query.source,
                user_id=self.user_id if is_theirs else None,
                where=query.where,
                search=query.search,
                fields=query.fields,
                order_by=query.order_by,
                limit=query.limit,
            )

    def _called(self, request: ApiCall) -> list[dict[str, Any]]:
        return self.parts.egress.call(self.business_id, request, self._headers(request))

    def _headers(self, request: ApiCall) -> Mapping[str, str]:
        """The stage's secrets, and what makes a repeated call harmless. The connection goes back before the call."""
        with self.parts.database.transaction(self.business_id) as conn:
            cipher = self.parts.key_store.cipher(conn, self.business_id)
            url, headers = lookups.find_api_call(conn, self.business_id, cipher, request.stage_id)
        # The stage may have been changed since the turn began: new secrets are not for the old server.
        if headers and addresses.origin(url or "") != addresses.origin(request.url):
            raise LookUpFailed("blocked")
        once = {"Idempotency-Key": f"{self.turn_id}:{KIND}"} if request.method in BODIED else {}
        return headers | once
