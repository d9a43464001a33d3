"""Amounts of money: JSON numbers on the wire, exact decimals inside."""

from __future__ import annotations

from decimal import Decimal

from api.errors import InvalidRequest

# Fifteen digits are what a JSON number carries through a double unchanged.
LARGEST = Decimal("99999999999.9999")
_SMALLEST_STEP = Decimal("0.0001")


def amount(number: float, place: str) -> Decimal:
    """The decimal that was written; raises InvalidRequest for what numeric(18, 4) would round."""
    value = Decimal(str(number))
    if value % _SMALLEST_STEP:
        raise InvalidRequest(f"{place}: {value:f} has more than 4 decimals", "Round it to 4 decimals")
    return value
