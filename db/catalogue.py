"""What products and services have in common: one set of queries for both tables."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

from db import Connection, NotFound, execute, fetch_all, fetch_one, json_value
from db.paging import Page, clause, conditions


class Offer(Protocol):
    """A product or a service."""

    @property
    def created_at(self) -> datetime: ...


Row = TypeVar("Row", bound=Offer)
# As the columns `words` are made (migrations/0012): USB-C/HDMI is found as it is written, and by each of its words.
WORDS_APART = "regexp_replace({}, '(?<=[[:alnum:]])[-/_](?=[[:alnum:]])', ' ', 'g')"
FILTERS = {
    "q": "words @@ (websearch_to_tsquery('simple', %(q)s)"
    f" || websearch_to_tsquery('simple', {WORDS_APART.format('%(q)s')}))",
    "active": "active = %(active)s",
}


@dataclass(frozen=True)
class Shelf(Generic[Row]):
    """One table of the catalogue; `key` is the column of its ids, `row` makes a row of `columns`."""

    table: str
    key: str
    columns: str
    row: Callable[..., Row]

    def insert(self, conn: Connection, business_id: str, fields: Mapping[str, Any]) -> None:
        """A new row; columns not in `fields` get the table's defaults. Raises Conflict when the sku is taken."""
        values = _values(fields) | {"business_id": business_id}
        places = ", ".join(f"%({name})s" for name in values)
        execute(conn, f"INSERT INTO {self.table} ({', '.join(values)}) VALUES ({places})", values)

    def get(self, conn: Connection, business_id: str, row_id: str) -> Row:
        """The row; raises NotFound."""
        row = fetch_one(
            conn,
            f"SELECT {self.columns} FROM {self.table} WHERE business_id = %s AND {self.key} = %s",
            [business_id, row_id],
        )
        if row is None:
            raise NotFound
        return self.row(*row)

    def list_page(self, conn: Connection, business_id: str, filters: Mapping[str, Any], page: Page) -> list[Row]:
        """A page of the business's rows, newest first; `filters` names keys of FILTERS."""
        end, values = clause(page, "created_at", self.key)
        where = conditions(FILTERS, filters)
        rows = fetch_all(
            conn,
            f"SELECT {self.columns} FROM {self.table} WHERE business_id = %(business_id)s{where}{end}",
            values | dict(filters) | {"business_id": business_id},
        )
        return [self.row(*row) for row in rows]

    def names(self, conn: Connection, business_id: str, row_ids: Collection[str]) -> dict[str, str]:
        """The names of those of these ids that are the business's own."""
        rows = fetch_all(
            conn,
            f"SELECT {self.key}, name FROM {self.table} WHERE business_id = %s AND {self.key} = ANY (%s::uuid[])",
            [business_id, list(row_ids)],
        )
        return dict(rows)

    def update(self, conn: Connection, business_id: str, row_id: str, fields: Mapping[str, Any]) -> None:
        """Replace the named columns; raises NotFound and Conflict."""
        columns = "".join(f"{name} = %({name})s, " for name in fields)
        changed = execute(
            conn,
            f"UPDATE {self.table} SET {columns}updated_at = clock_timestamp()"
            f" WHERE business_id = %(business_id)s AND {self.key} = %(row_id)s",
            _values(fields) | {"business_id": business_id, "row_id": row_id},
        )
        if not changed:
            raise NotFound

    def delete(self, conn: Connection, business_id: str, row_id: str) -> None:
        """Orders keep their items as they were sold; raises NotFound."""
        if not execute(
            conn, f"DELETE FROM {self.table} WHERE business_id = %s AND {self.key} = %s", [business_id, row_id]
        ):
            raise NotFound


def _values(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: json_value(value) if name == "attributes" else value for name, value in fields.items()}
