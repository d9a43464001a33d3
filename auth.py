"""Who is calling and what may they do: the master key, business keys and the cookie made from one, people by role."""

from __future__ import annotations

import binascii
import functools
import hmac
import secrets
import string
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar, cast

from flask import current_app, g, request

import db
from db import api_keys, cipher, keys, sessions, user_sessions
from db.batch import Single
from db.key_buckets import KeyBuckets

COOKIE = "businessApiKey"
USER_COOKIE = "icmpSession"
COOKIE_HOURS = 12
COOKIE_IDLE_MINUTES = 30
# Each cookie stands for one kind of caller; a person's own login goes before a key.
_COOKIES = {USER_COOKIE: "user", COOKIE: "business"}
_ALPHABET = string.digits + string.ascii_letters
_SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
View = TypeVar("View", bound=Callable[..., Any])
_OWNER = frozenset({"owner"})
_ADMINS = _OWNER | {"admin"}
_DESK = _ADMINS | {"operator"}
_AUDIT = _ADMINS | {"viewer"}
_STAFF = _DESK | {"viewer"}
_NOBODY: frozenset[str] = frozenset()
# Who may read and who may change, by the file of api/ that a route lives in. Keys are not asked: they may all of it.
# A file that is not named here is closed to people.
RIGHTS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    **dict.fromkeys(("businesses", "users", "agents", "templates", "stages"), (_STAFF, _ADMINS)),
    **dict.fromkeys(("products", "services", "messages"), (_STAFF, _ADMINS)),  # to post one is to speak as a customer
    "config": (_AUDIT, _ADMINS),
    **dict.fromkeys(("conversations", "orders"), (_STAFF, _DESK)),
    "ledger": (_STAFF, _NOBODY),
    **dict.fromkeys(("events", "analytics", "audit"), (_AUDIT, _NOBODY)),
    "stage_try": (_NOBODY, _ADMINS),
    "keys": (_OWNER, _OWNER),
    "login": (_STAFF, _STAFF),  # a person's own
}


class Unauthorized(Exception):
    """A valid key is needed."""


class Forbidden(Exception):
    """The key does not allow this."""


class BusinessNotNamed(Exception):
    """The master key must name the business."""


@dataclass(frozen=True)
class Caller:
    """Who sent the request: the master (business_id is None), a business by one of its keys, or a user of a business
    in a role. `expires_at` is when the key ends, if it does."""

    kind: str
    business_id: str | None = None
    key_id: str | None = None
    session_key_id: str | None = None
    user_id: str | None = None
    user_session_id: str | None = None
    role: str | None = None
    is_stale: bool = False
    expires_at: datetime | None = None

    @property
    def is_master(self) -> bool:
        """True for the master key."""
        return self.kind == "master"

    def may(self, room: str, *, change: bool) -> bool:
        """Whether a role allows this; keys may everything of their own business."""
        readers, changers = RIGHTS.get(room, (_NOBODY, _NOBODY))
        return self.role is None or self.role in (changers if change else readers)


@dataclass(frozen=True)
class Gate:
    """What is needed to recognise a caller; `app.py` puts it into `app.extensions["auth"]`."""

    database: db.Database
    key_store: keys.KeyStore
    master_key: str
    allowed_origins: frozenset[str]
    key_buckets: KeyBuckets

    def recognise(self, token: str, limit: str | None = None) -> Caller:
        """Who holds this bearer token, and in `g.taken_ahead` what the key's bucket gave; raises Unauthorized."""
        if hmac.compare_digest(token.encode(), self.master_key.encode()):
            return Caller("master")
        if not is_well_formed(token):
            raise Unauthorized
        found = self._find(Single(self.database, None), token, limit)
        if found is None:
            raise Unauthorized
        if found.is_stale:
            self._write_down_use(found)
        return found

    def _find(self, conn: db.Connection, token: str, limit: str | None) -> Caller | None:
        token_hash = hash_of(self.key_store.platform(conn).pepper, token)
        if token.startswith("icmp_usr_"):
            login = user_sessions.find(conn, token_hash, COOKIE_IDLE_MINUTES)
            return Caller("user", **vars(login)) if login else None
        if token.startswith("icmp_ses_"):
            found = sessions.find(conn, token_hash, COOKIE_IDLE_MINUTES)
            return Caller("business", session_key_id=found.session_key_id, **vars(found.holder)) if found else None
        holder, taken = self.key_buckets.find(token_hash, limit)
        if holder is not None and taken is not None:
            g.taken_ahead = (f"{holder.key_id}/{limit}", taken)
        return Caller("business", **vars(holder)) if holder else None

    def _write_down_use(self, known: Caller) -> None:
        with self.database.transaction(business_id := known.business_id or "") as conn:
            used = (known.key_id, known.session_key_id, known.user_session_id)
            for room, row_id in zip((api_keys, sessions, user_sessions), used, strict=True):
                if row_id:
                    room.touch(conn, business_id, row_id)


def make_key(kind: str) -> str:
    """A new secret: `icmp_<kind>_live_`, 32 random base-62 characters (190 bits), six of checksum."""
    body = f"icmp_{kind}_live_" + "".join(secrets.choice(_ALPHABET) for _ in range(32))
    return body + _checksum(body)


def is_well_formed(token: str) -> bool:
    """Whether the checksum fits: a mistyped or made-up key is refused without asking the database."""
    return len(token) > 38 and token.startswith("icmp_") and token.isascii() and token[-6:] == _checksum(token[:-6])


def hash_of(pepper: bytes, token: str) -> bytes:
    """What is stored of it."""
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
        known = _identify()
        if not known.is_master:
            _read_body()
            raise Forbidden("this needs the master key")
        _resolve(known, arguments.get("business_id"))
        return view(**arguments)

    cast(Any, guarded).access = "master"
    return cast(View, guarded)


def require_business_api_key(view: View) -> View:
    """A business's key, a person by role, or the master key naming the business; the view gets `business_id`."""
    return _guarded(view, "business")


def allow_global(view: View) -> View:
    """The same, but the master key without a business means the platform's own objects, with `business_id` None."""
    return _guarded(view, "business or global")


def _guarded(view: View, access: str) -> View:
    room = getattr(view, "room", view.__module__.rpartition(".")[2])
    limit = getattr(getattr(view, "contract", None), "limit", None)

    @functools.wraps(view)
    def guarded(**arguments: Any) -> Any:
        business_id = _resolve(_identify(limit), arguments.pop("business_id", None))
        require_right(room)
        if business_id is None and access == "business":
            raise BusinessNotNamed("business_id: missing from path, query and body")
        return view(business_id=business_id, **arguments)

    cast(Any, guarded).access = access
    return cast(View, guarded)


def for_room(room: str) -> Callable[[View], View]:
    """Marks a view that needs the rights of another room than its file's; stands below the guard."""

    def mark(view: View) -> View:
        cast(Any, view).room = room
        return view

    return mark


def require_right(room: str) -> None:
    """Raises Forbidden unless the current caller's role allows this method in this room."""
    if not caller().may(room, change=request.method not in _SAFE_METHODS):
        raise Forbidden(f"the role {caller().role} does not allow this")


def caller() -> Caller:
    """Who sent the current request."""
    return cast(Caller, g.caller)


def _identify(limit: str | None = None) -> Caller:
    gate: Gate = current_app.extensions["auth"]
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme:
        if scheme.lower() != "bearer" or not token.strip():
            raise Unauthorized("the Authorization header is not 'Bearer <key>'")
        g.caller = gate.recognise(token.strip(), limit)
    else:
        g.caller = _holder_of_cookie(gate)
        g.rides_on_cookie = True
    return caller()


def _holder_of_cookie(gate: Gate) -> Caller:
    """The first cookie that is live counts: an ended login must not lock out a browser that also has a key."""
    refused = Unauthorized("no key was sent")
    for name, kind in _COOKIES.items():
        try:
            holder = gate.recognise(request.cookies[name]) if request.cookies.get(name) else None
        except Unauthorized as error:
            refused = error
            continue
        if holder is not None and holder.kind == kind:
            return holder
    raise refused


def _resolve(known: Caller, in_path: str | None) -> str | None:
    body = _read_body()
    if g.get("rides_on_cookie"):
        refuse_foreign_origin()
    in_body = body.get("business_id") if isinstance(body, dict) else None
    places = (in_path, request.args.get("business_id"), in_body)
    named = [place if _is_malformed(place) else str(uuid.UUID(place)) for place in places if isinstance(place, str)]
    others = {name for name in named if not _is_malformed(name)} - {known.business_id}
    if known.is_master:
        if len(others) > 1:
            raise BusinessNotNamed("business_id: path, query and body name different businesses")
        g.business_id = next(iter(others), None)
        return next(iter(named), None)
    if others:
        raise Forbidden("business_id is not the caller's own")
    g.business_id = known.business_id
    return known.business_id


def _is_malformed(place: str) -> bool:
    """A malformed id is the contract's to refuse: it names no business at all."""
    try:
        uuid.UUID(place)
    except ValueError:
        return True
    return False


def _read_body() -> Any:
    if request.method == "DELETE":  # it needs none, but may name its business there
        return cast(Any, request).json_if_any()
    return None if request.method in _SAFE_METHODS else request.get_json()


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
