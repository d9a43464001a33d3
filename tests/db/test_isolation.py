"""Row-level security as the second wall: what the catalogue says, and what icmp_app can really do."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import pytest

import db
from tests.api import shop
from tests.conftest import Client

Sql = Callable[..., list[tuple[Any, ...]]]
TENANT_TABLES = """
    SELECT c.oid::regclass::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
      AND a.attname = 'business_id' AND NOT a.attisdropped ORDER BY 1
"""
FILLED = {
    *("businesses", "data_keys", "memberships", "api_keys", "sessions", "agents", "products", "services"),
    *("templates", "stages", "conversations", "turns", "messages", "turn_steps", "events"),
}


@pytest.fixture
def tables(sql: Sql) -> list[str]:
    """Every table whose rows belong to a business."""
    found = [name for (name,) in sql(TENANT_TABLES)]
    assert set(found) >= FILLED
    return found


@pytest.fixture
def database(database_url: str) -> Iterator[db.Database]:
    made = db.Database(database_url, pool_size=1)
    yield made
    made.close()


@pytest.fixture
def busy(alice: Client, charlie: Client, anybody: Client, sql: Sql) -> tuple[str, str]:
    """Alice's and Charlie's ids, who both have rows in the tables FILLED."""
    for client in (alice, charlie):
        [stage_id] = shop.furnish(client, shop.ORDER_STATUS)
        assert client.patch(f"/api/v1/stages/{stage_id}", {"response_generation_prompt": "Answer."}).status == 200
        assert shop.write(client, "Where is order 4411?").status == 200
        saved = anybody.post("/api/save-config", {"businessApiKey": client.key})
        assert saved.status == 200, saved.body
        event = {"event_id": str(uuid.uuid4()), "business_id": client.business_id, "event_type": "view"}
        assert anybody.post("/api/v1/events", event | {"event_timestamp": "2026-01-02T03:04:05Z"}).status == 201
        for table, name in (("agents", "agent_name"), ("products", "name"), ("services", "name")):
            thing = f"{table.removesuffix('s')}_id"
            statement = f"INSERT INTO {table} (business_id, {thing}, {name}) VALUES (%s, %s, 'Kim')"
            sql(statement, client.business_id, str(uuid.uuid4()))
    return alice.business_id, charlie.business_id


def _count(conn: db.Connection, table: str, where: str = "true", *values: Any) -> int:
    row = db.fetch_one(conn, f"SELECT count(*) FROM {table} WHERE {where}", values)
    assert row is not None
    return int(row[0])


def test_every_tenant_table_forces_a_policy_that_reads_and_writes_obey(sql: Sql, tables: list[str]) -> None:
    forced = sql("SELECT oid::regclass::text FROM pg_class WHERE relrowsecurity AND relforcerowsecurity")
    policed = sql(
        "SELECT tablename FROM pg_policies WHERE schemaname = 'public' AND policyname = 'tenant' AND cmd = 'ALL'"
        " AND permissive = 'PERMISSIVE' AND qual LIKE '%%app_business()%%' AND with_check = qual"
    )
    assert set(tables) <= {name for (name,) in forced}
    assert set(tables) <= {name for (name,) in policed}
    assert "users" in {name for (name,) in forced}


def test_no_other_policy_lets_the_app_see_or_write_more(sql: Sql, tables: list[str]) -> None:
    others = sql(
        "SELECT tablename, cmd, roles::text FROM pg_policies WHERE tablename = ANY (%s) AND policyname <> 'tenant'",
        tables,
    )
    assert {(cmd, roles) for _, cmd, roles in others} <= {("SELECT", "{icmp_lookup}")}


def test_keys_of_tenant_tables_begin_with_the_tenant(sql: Sql, tables: list[str]) -> None:
    first_columns = sql(
        "SELECT conrelid::regclass::text, (SELECT attname FROM pg_attribute WHERE attrelid = conrelid"
        " AND attnum = conkey[1]) FROM pg_constraint WHERE contype = 'p'"
    )
    assert {(table, "business_id") for table in tables} <= set(first_columns)
    foreign = sql(
        "SELECT conname FROM pg_constraint WHERE contype = 'f' AND conrelid::regclass::text = ANY (%s)"
        " AND confrelid::regclass::text = ANY (%s) AND (SELECT attname FROM pg_attribute WHERE attrelid = conrelid"
        " AND attnum = conkey[1]) <> 'business_id'",
        tables,
        tables,
    )
    assert foreign == []


def test_the_roles_are_weak_and_own_nothing_that_holds_rows(sql: Sql) -> None:
    roles = sql(
        "SELECT rolname, rolsuper, rolbypassrls, rolcanlogin, rolcreaterole, rolcreatedb FROM pg_roles"
        " WHERE rolname LIKE 'icmp%%' ORDER BY 1"
    )
    assert {"icmp_app", "icmp_lookup"} <= {name for name, *_ in roles}
    assert {tuple(rights) for _, *rights in roles} == {(False,) * 5}
    owned = "SELECT count(*) FROM pg_class WHERE pg_get_userbyid(relowner) LIKE 'icmp%%'"
    assert sql(owned) == [(0,)]
    assert sql("SELECT count(*) FROM pg_proc WHERE pg_get_userbyid(proowner) = 'icmp_app'") == [(0,)]
    for role in ("icmp_app", "icmp_lookup"):
        assert sql("SELECT has_schema_privilege(%s, 'public', 'CREATE')", role) == [(False,)]
    assert sql("SELECT pg_has_role('icmp_app', 'icmp_lookup', 'MEMBER')") == [(False,)]


def test_functions_that_look_past_the_policies_belong_to_a_role_that_only_reads(sql: Sql) -> None:
    functions = sql(
        "SELECT proname, pg_get_userbyid(proowner), array_to_string(proconfig, ','), provolatile::text,"
        " has_function_privilege('public', oid, 'EXECUTE')"
        " FROM pg_proc WHERE prosecdef AND pronamespace = 'public'::regnamespace"
    )
    assert {"find_api_key", "find_session", "known_businesses", "list_businesses"} <= {row[0] for row in functions}
    for name, owner, config, volatility, is_public in functions:
        if name == "analyze_young_table":  # tells a number and no row, but only an owner may analyze
            assert (owner.startswith("icmp"), is_public) == (False, False)
        else:
            assert (owner, volatility, is_public) == ("icmp_lookup", "s", False), name
        assert config == "search_path=pg_catalog, public, pg_temp", name
    writes = sql(
        "SELECT c.relname FROM pg_class c, unnest(ARRAY['INSERT', 'UPDATE', 'REFERENCES']) privilege"
        " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND"
        " (has_any_column_privilege('icmp_lookup', c.oid, privilege)"
        "  OR has_table_privilege('icmp_lookup', c.oid, 'DELETE'))"
    )
    assert writes == []
    secret = "SELECT has_column_privilege('icmp_lookup', %s, %s, 'SELECT')"
    for table, column in (("data_keys", "wrapped"), ("messages", "message_content"), ("stages", "secret_headers")):
        assert sql(secret, table, column) == [(False,)]


def test_what_looks_before_the_tenant_is_known_reads_hashes_and_no_ciphertext(sql: Sql, tables: list[str]) -> None:
    secret = sql(
        "SELECT r.rolname, c.relname, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid, pg_roles r"
        " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND a.atttypid = 'bytea'::regtype"
        " AND NOT a.attisdropped AND r.rolname LIKE 'icmp%%' AND r.rolname <> 'icmp_app'"
        " AND has_column_privilege(r.rolname, c.oid, a.attnum, 'SELECT')"
    )
    assert ("icmp_lookup", "api_keys", "key_hash") in secret
    assert [each for each in secret if not each[2].endswith("_hash")] == []


def test_without_a_tenant_no_row_is_there(
    database: db.Database, sql: Sql, tables: list[str], busy: tuple[str, str]
) -> None:
    for table in tables:
        assert table not in FILLED or sql(f"SELECT count(*) > 1 FROM {table}") == [(True,)], table
        with database.transaction(None) as conn:
            assert _count(conn, table) == 0, table
    with database.transaction(None) as conn:
        assert _count(conn, "users") == 0


def test_another_tenants_rows_can_be_neither_seen_nor_touched(
    database: db.Database, sql: Sql, tables: list[str], busy: tuple[str, str]
) -> None:
    ours, theirs = busy
    for table in tables:
        before = sql(f"SELECT count(*) FROM {table} WHERE business_id = %s", theirs)
        with database.transaction(ours) as conn:
            assert _count(conn, table, "business_id <> %s", ours) == 0, table
            for statement in (f"UPDATE {table} SET business_id = business_id", f"DELETE FROM {table}"):
                try:
                    db.execute(conn, "SAVEPOINT attempt")
                    assert db.execute(conn, f"{statement} WHERE business_id = %s", [theirs]) == 0, table
                except psycopg2.errors.InsufficientPrivilege:  # a table that nobody changes
                    db.execute(conn, "ROLLBACK TO attempt")
        assert sql(f"SELECT count(*) FROM {table} WHERE business_id = %s", theirs) == before, table


def test_no_row_can_be_written_without_its_tenant(
    database: db.Database, sql: Sql, tables: list[str], busy: tuple[str, str]
) -> None:
    ours, theirs = busy
    for table in (table for table in tables if table in FILLED):
        [(row,)] = sql(f"SELECT to_jsonb(t)::text FROM {table} t WHERE business_id = %s LIMIT 1", theirs)
        [(columns,)] = sql(
            "SELECT string_agg(column_name, ', ') FROM information_schema.columns WHERE table_schema = 'public'"
            " AND table_name = %s AND is_generated = 'NEVER' AND identity_generation IS NULL",
            table,
        )
        copy = f"INSERT INTO {table} ({columns}) SELECT {columns} FROM jsonb_populate_record(NULL::{table}, %s::jsonb)"
        for business_id in (None, ours):
            with pytest.raises(psycopg2.errors.InsufficientPrivilege), database.transaction(business_id) as conn:
                db.execute(conn, copy, [row])


def test_no_row_can_be_given_to_another_tenant(
    database: db.Database, sql: Sql, tables: list[str], busy: tuple[str, str]
) -> None:
    ours, theirs = busy
    for table in tables:
        if table not in FILLED:
            continue
        with pytest.raises(psycopg2.errors.InsufficientPrivilege), database.transaction(ours) as conn:
            db.execute(conn, f"UPDATE {table} SET business_id = %s", [theirs])


def test_a_row_cannot_point_into_another_business(sql: Sql, busy: tuple[str, str]) -> None:
    ours, theirs = busy
    # Even the superuser, whom no policy stops: the keys themselves refuse it.
    for column, table in (("agent_id", "agents"), ("stage_id", "stages")):
        [(foreign,)] = sql(f"SELECT {column} FROM {table} WHERE business_id = %s", theirs)
        with pytest.raises(psycopg2.errors.ForeignKeyViolation):
            sql(f"UPDATE conversations SET {column} = %s WHERE business_id = %s", foreign, ours)
