"""The first wall against other tenants: every statement of db/ on a tenant's table names the business."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

DB = Path(__file__).resolve().parents[2] / "db"
Sql = Callable[..., list[tuple[Any, ...]]]
# {} stands for what an f-string puts in: a table that is not known here may be a tenant's.
TOUCHED = re.compile(r"\b(FROM|JOIN|INTO|UPDATE)\s+(?:public\.)?(\{\}|\w+)")


@pytest.fixture
def tenant_tables(sql: Sql) -> set[str]:
    """Every table with a business in it, by the catalogue."""
    found = sql(
        "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
        " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')"
        " AND a.attname = 'business_id' AND NOT a.attisdropped"
    )
    assert len(found) >= 16
    return {name for (name,) in found}


def _text(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) or "{}" for part in node.values)
    return None


def _statements(source: str) -> Iterator[tuple[int, str, str]]:
    """Line and text of each string that touches a table, with the source of the function around it."""
    tree = ast.parse(source)
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for node in ast.walk(tree):
        text = _text(node) if isinstance(node, ast.JoinedStr) or id(node) not in parts else None
        if text and isinstance(node, ast.expr) and TOUCHED.search(text):
            around = [each for each in functions if each.lineno <= node.lineno <= (each.end_lineno or 0)]
            yield node.lineno, text, ast.unparse(around[-1]) if around else ""


def _forgetful(source: str, tenant_tables: set[str]) -> list[tuple[int, str]]:
    forgetful = []
    for line, text, around in _statements(source):
        touched = [(verb, table) for verb, table in TOUCHED.findall(text) if table in tenant_tables | {"{}"}]
        # An insertion may get its columns from outside: then the function must put its business among them.
        inserts = all(verb == "INTO" for verb, _ in touched)
        names_it = "business_id" in text or (inserts and around.count("business_id") > 1)
        if touched and not names_it:
            forgetful.append((line, text))
    return forgetful


def test_every_statement_on_a_tenants_table_names_the_business(tenant_tables: set[str]) -> None:
    checked = 0
    for path in sorted(DB.glob("*.py")):
        source = path.read_text(encoding="utf-8")
        checked += len(list(_statements(source)))
        assert _forgetful(source, tenant_tables) == [], path.name
    assert checked > 80


@pytest.mark.parametrize(
    "statement",
    [
        '"SELECT name FROM agents WHERE agent_id = %s"',
        '"UPDATE messages SET metadata = NULL"',
        'f"DELETE FROM {table} WHERE {key} = %s"',
        'f"SELECT {COLUMNS} FROM users JOIN memberships USING (user_id)"',
        'f"INSERT INTO agents ({columns}) VALUES ({places})"',
    ],
)
def test_a_statement_that_forgets_the_business_is_found(statement: str, tenant_tables: set[str]) -> None:
    source = f"def forget(conn, table):\n    execute(conn, {statement})\n"
    assert len(_forgetful(source, tenant_tables)) == 1
