"""Products: the things that a business sells."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from db import catalogue

COLUMNS = "product_id, business_id, name, description, price, currency, sku, attributes, active, created_at, updated_at"


@dataclass(frozen=True)
class Product:
    """`price` is for one piece, in `currency` (ISO 4217)."""

    product_id: str
    business_id: str
    name: str
    description: str
    price: Decimal | None
    currency: str | None
    sku: str | None
    attributes: dict[str, Any]
    active: bool
    created_at: datetime
    updated_at: datetime


SHELF = catalogue.Shelf("products", "product_id", COLUMNS, Product)
