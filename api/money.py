"""Amounts of money: JSON numbers on the wire, exact decimals inside."""

from __future__ import annotations

from decimal import Decimal

from api.errors import InvalidRequest

# Fifteen digits are what a JSON number carries through a double unchanged.
LARGEST = Decimal("99999999999.9999")
_SMALLEST_STEP = Decimal("0.0001")
_TRIFLE = Decimal("1e-9")


def amount(number: float, place: str) -> Decimal:
    """The decimal that was meant: sums of doubles are off by a trifle. Raises InvalidRequest for what numeric(18, 4)
    would round."""
    written = Decimal(str(number))
    value = written.quantize(_SMALLEST_STEP).normalize()
    if abs(written - value) > _TRIFLE:
        raise InvalidRequest(f"{place}: {written:f} has more than 4 decimals", "Round it to 4 decimals")
    return value
