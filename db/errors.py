"""States that queries can end in; the rest of the project never sees a driver's error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2
from psycopg2 import errors


class NotFound(Exception):
    """There is no such object."""


class Conflict(Exception):
    """The object's state or name stands in the way."""


class DatabaseUnavailable(Exception):
    """The database cannot be used at the moment."""


class KeysUnavailable(Exception):
    """The key management service cannot be used at the moment."""


CONFLICTS = {
    "businesses_business_name_key": "business_name is taken by another business",
    "users_login_email_key": "email is the login of another user",
    "stages_stage_name_key": "stage_name is taken by another stage of this business",
    "agents_agent_name_key": "agent_name is taken by another agent of this business",
    "templates_version_key": "template_id exists already, or was changed by somebody else at the same time",
    "global_templates_version_key": "template_id exists already, or was changed by somebody else at the same time",
    "conversations_one_open": "the session has another open conversation",
    "products_sku_key": "sku is taken by another product of this business",
    "services_sku_key": "sku is taken by another service of this business",
    "orders_order_number_key": "order_number is taken by another order of this business",
}


_AWAY = (
    psycopg2.OperationalError,
    psycopg2.InterfaceError,
    # A database without our role or tables: not migrated yet, or another one than was meant.
    errors.UndefinedTable,
    errors.UndefinedFunction,
    errors.InvalidParameterValue,
)


@contextmanager
def translated() -> Iterator[None]:
    """Driver errors leave as ours: conflicts by the constraint's name, lost connections as DatabaseUnavailable."""
    try:
        yield
    except psycopg2.Error as error:
        raise_ours(error)
        raise


def raise_ours(error: BaseException | None) -> None:
    """Raise our exception for a driver's; nothing for one that means a fault of ours, or that is no driver's."""
    if error is None:
        return
    translation = _ours(error)
    if translation is not None:
        raise translation from error


def _ours(error: BaseException | None) -> Exception | None:
    if isinstance(error, errors.UniqueViolation):
        text = CONFLICTS.get(error.diag.constraint_name or "")
        return None if text is None else Conflict(text)
    if isinstance(error, errors.ForeignKeyViolation):
        return Conflict("something that this refers to was deleted at the same time")
    # Of no kind of its own: the driver lost the connection in the middle of an answer.
    if isinstance(error, _AWAY) or type(error) is psycopg2.DatabaseError:
        return DatabaseUnavailable(type(error).__name__)
    return None
