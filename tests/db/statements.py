"""Which statements of a migration would break the release that still runs while it is applied."""

from __future__ import annotations

import re

_BREAKING = (
    r"\bDROP (TABLE|COLUMN|TYPE|SCHEMA|ROLE|VIEW)\b",
    r"\bRENAME\b",
    r"\bTRUNCATE\b",
    r"\bALTER COLUMN \w+ (SET DATA )?TYPE\b",
    r"\bALTER COLUMN \w+ DROP DEFAULT\b",
    r"\bSET NOT NULL\b",
    r"\bADD (COLUMN )?(IF NOT EXISTS )?\w+ (?!.*\bDEFAULT\b)(?!.*\bGENERATED\b).*\bNOT NULL\b",
    r"\bREVOKE (?!ALL ON FUNCTION)(?!CREATE ON SCHEMA).*\bFROM icmp_app\b",
)
BREAKING = (
    "DROP TABLE orders",
    "ALTER TABLE orders DROP COLUMN total",
    "ALTER TABLE orders RENAME COLUMN total TO sum",
    "alter table orders rename to sales",
    "ALTER TABLE orders ALTER COLUMN total TYPE text",
    "ALTER TABLE orders ALTER total SET NOT NULL",
    "ALTER TABLE orders ADD COLUMN weight integer NOT NULL",
    "ALTER TABLE orders\n    ADD COLUMN height integer DEFAULT 0,\n    ADD COLUMN weight integer NOT NULL",
    "TRUNCATE orders",
    "REVOKE UPDATE ON orders FROM icmp_app",
    "DROP FUNCTION find_api_key(bytea)",
)
HARMLESS = (
    "ALTER TABLE orders ADD COLUMN weight integer",
    "ALTER TABLE orders ADD COLUMN weight integer NOT NULL DEFAULT 0",
    "CREATE TABLE parcels (parcel_id uuid NOT NULL) -- we DROP TABLE nothing",
    "DROP FUNCTION find_login(bytea); CREATE FUNCTION find_login(hash bytea) RETURNS uuid LANGUAGE sql AS 'SELECT 1'",
    "CREATE INDEX orders_age ON orders (created_at)",
)


def breaking(sql: str) -> list[str]:
    """The pieces that break running code, each as it stands."""
    code = re.sub(r"--[^\n]*", "", sql)
    pieces = [" ".join(piece.split()) for piece in re.split(r";|,\s*(?=(?:ADD|ALTER|DROP)\b)", code)]
    found = [piece for piece in pieces if any(re.search(each, piece, re.IGNORECASE) for each in _BREAKING)]
    return found + [f"DROP FUNCTION {name}" for name in _functions("DROP", code) - _functions("CREATE", code)]


def _functions(verb: str, code: str) -> set[str]:
    """Those dropped, or made: a function may be replaced by one of its name."""
    found = re.findall(rf"\b{verb} (?:OR REPLACE )?FUNCTION (?:IF EXISTS )?(?:public\.)?(\w+)", code, re.IGNORECASE)
    return set(found)
