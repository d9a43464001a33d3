"""Calls to addresses that tenants name, as tests make them."""

from __future__ import annotations

from typing import Any

import pytest

from nlp import egress
from nlp.data_retrieval import ApiCall
from nlp.egress import Egress
from nlp.errors import LookUpFailed


def request(url: str, **changes: Any) -> ApiCall:
    """A GET that may take five seconds, changed as wanted."""
    return ApiCall("stage", url, **{"timeout_s": 5.0, **changes})


def always(found: list[str]) -> egress.Resolve:
    """Every name has these addresses."""
    return lambda _host, _port: found


def refusal(client: Egress, call: ApiCall, business_id: str = "b1") -> str:
    """Why the call is not made or fails."""
    with pytest.raises(LookUpFailed) as caught:
        client.call(business_id, call)
    return caught.value.reason
