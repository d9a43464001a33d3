"""JSON as bytes, compact and in UTF-8: what is stored, and what models are asked."""

from __future__ import annotations

import json
from typing import Any

import orjson

# The same text as orjson's, for what it does not take: numbers beyond 64 bits, very deep values.
_slowly = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def encoded(value: Any) -> bytes:
    """Any JSON value; NaN and infinity become null or are refused. Raises TypeError or ValueError for anything else."""
    try:
        return orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME)
    except TypeError:
        return _slowly(value).encode()
