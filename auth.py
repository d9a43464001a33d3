"""Who is calling and what may they do: the master key, business keys and the cookie made from one."""

from __future__ import annotations

import binascii
import functools
import hmac
import secrets
import string
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from flask import current_app, g, request

import db
from db import api_keys, cipher, keys, sessions

COOKIE = "businessApiKey"
COOKIE_HOURS = 12
COOKIE_IDLE_MINUTES = 30
_ALPHABET = string.digits + string.ascii_letters
_SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
View = TypeVar("View", bound=Callable[..., Any])


class Unauthorized(Exception):
    """A valid key is needed."""


class Forbidden(Exception):
    """The key does not allow this."""


class BusinessNotNamed(Exception):
    """The master key must name the business."""


@dataclass(frozen=True)
class Caller:
    """Who sent the request: the master (business_id is None) or a business by one of its keys."""

    kind: str
    business_id: str | None = None
    key_id: str | None = None
    session_key_id: str | None = None

    @property
    def is_master(self) -> bool:
        """True for the master key."""
        return self.kind == "master"


@dataclass(frozen=True)
class Gate:
    """What is needed to recognise a caller; `app.py` puts it into `app.extensions["auth"]`."""

    database: db.Database
    key_store: keys.KeyStore
    master_key: str
    allowed_origins: frozenset[str]

    def recognise(self, token: str) -> Caller:
        """The caller who holds this bearer token; raises Unauthorized."""
        if hmac.compare_digest(token.encode(), self.master_key.encode()):
            return Caller("master")
        if not is_well_formed(token):
            raise Unauthorized
        return self._by_hash(token)

    def _by_hash(self, token: str) -> Caller:
        with self.database.transaction(None) as conn:
            token_hash = hash_of(self.key_store.platform(conn).pepper, token)
            if token.startswith("icmp_ses_"):
                session = sessions.find(conn, token_hash, COOKIE_IDLE_MINUTES)
                holder = session.holder if session else None
            else:
                session, holder = None, api_keys.find_holder(conn, token_hash)
        if holder is None:
            raise Unauthorized
        if holder.is_stale:
            self._write_down_use(holder, session)
        session_key_id = session.session_key_id if session else None
        return Caller("business", holder.business_id, holder.key_id, session_key_id)

    def _write_down_use(self, holder: api_keys.Holder, session: sessions.Session | None) -> None:
        with self.database.transaction(holder.business_id) as conn:
            api_keys.touch(conn, holder.business_id, holder.key_id)
            if session:
                sessions.touch(conn, holder.business_id, session.session_key_id)


def make_key(kind: str) -> str:
    """A new secret: `icmp_<kind>_live_`, 32 random base-62 characters (190 bits), six of checksum."""
    body = f"icmp_{kind}_live_" + "".join(secrets.choice(_ALPHABET) for _ in range(32))
    return body + _checksum(body)


def is_well_formed(token: str) -> bool:
    """Whether the checksum fits: a mistyped or made-up key is refused without asking the database."""
    return len(token) > 38 and token.startswith("icmp_") and token.isascii() and token[-6:] == _checksum(token[:-6])


def hash_of(pepper: bytes, token: str) -> bytes:
    """What is stored of a key or token."""
    return cipher.keyed_hash(pepper, f"token:{token}")


def _checksum(body: str) -> str:
    number, digits = binascii.crc32(body.encode()), ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        digits = _ALPHABET[digit] + digits
    return digits


def public(view: View) -> View:
    """Marks a view that anybody may call."""
    cast(Any, view).access = "public"
    return view


def require_api_key(view: View) -> View:
    """Only the master key."""

    @functools.wraps(view)
    def guarded(**arguments: Any) -> Any:
        caller = _identify()
        _read_body()
        if not caller.is_master:
            raise Forbidden("this needs the master key")
        return view(**arguments)

    cast(Any, guarded).access = "master"
    return cast(View, guarded)


def require_business_api_key(view: View) -> View:
    """A business's key, or the master key naming the business; the view gets `business_id`."""

    @functools.wraps(view)
    def guarded(**arguments: Any) -> Any:
        business_id = _resolve(_identify(), arguments.pop("business_id", None))
        if business_id is None:
            raise BusinessNotNamed("business_id: missing from path, query and body")
        return view(business_id=business_id, **arguments)

    cast(Any, guarded).access = "business"
    return cast(View, guarded)


def allow_global(view: View) -> View:
    """Like require_business_api_key, but the master key without a business means the platform's own objects;
    the view then gets `business_id` None."""

    @functools.wraps(view)
    def guarded(**arguments: Any) -> Any:
        return view(business_id=_resolve(_identify(), arguments.pop("business_id", None)), **arguments)

    cast(Any, guarded).access = "business or global"
    return cast(View, guarded)


def caller() -> Caller:
    """Who sent the current request."""
    return cast(Caller, g.caller)


def _identify() -> Caller:
    gate: Gate = current_app.extensions["auth"]
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme:
        if scheme.lower() != "bearer" or not token.strip():
            raise Unauthorized("the Authorization header is not 'Bearer <key>'")
        g.caller = gate.recognise(token.strip())
        return caller()
    cookie = request.cookies.get(COOKIE)
    if not cookie or not cookie.startswith("icmp_"):
        raise Unauthorized("no key was sent")
    g.caller = gate.recognise(cookie)
    g.rides_on_cookie = True
    return caller()


def _resolve(known: Caller, in_path: str | None) -> str | None:
    body = _read_body()
    if g.get("rides_on_cookie"):
        refuse_foreign_origin()
    in_body = body.get("business_id") if isinstance(body, dict) else None
    named = in_path or request.args.get("business_id") or in_body
    if known.is_master:
        return named if isinstance(named, str) else None
    for place in (in_path, request.args.get("business_id"), in_body):
        if _is_other(place, known.business_id):
            raise Forbidden("business_id is not the key's own")
    # A malformed id is the contract's to refuse: it names no business at all.
    g.business_id = known.business_id
    return in_path or known.business_id


def _is_other(place: Any, own: str | None) -> bool:
    try:
        return place is not None and str(uuid.UUID(place)) != own
    except (ValueError, AttributeError, TypeError):
        return False


def _read_body() -> Any:
    return None if request.method in _SAFE_METHODS | {"DELETE"} else request.get_json()


def refuse_foreign_origin() -> None:
    """A request that changes state on the strength of a cookie must come from our own or an allowed site."""
    if request.method in _SAFE_METHODS:
        return
    gate: Gate = current_app.extensions["auth"]
    origin = request.headers.get("Origin")
    if origin is None:
        is_foreign = request.headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}
    else:
        is_foreign = origin != request.host_url.rstrip("/") and origin not in gate.allowed_origins
    if is_foreign:
        raise Forbidden("the cookie does not count for requests from this Origin")
