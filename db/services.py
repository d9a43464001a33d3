"""Services: what a business does for its customers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from db import catalogue

COLUMNS = (
    "service_id, business_id, name, description, price, currency, sku, duration_minutes, attributes, active, "
    "created_at, updated_at"
)


@dataclass(frozen=True)
class Service:
    """`price` is for one time, in `currency` (ISO 4217)."""

    service_id: str
    business_id: str
    name: str
    description: str
    price: Decimal | None
    currency: str | None
    sku: str | None
    duration_minutes: int | None
    attributes: dict[str, Any]
    active: bool
    created_at: datetime
    updated_at: datetime


SHELF = catalogue.Shelf("services", "service_id", COLUMNS, Service)
