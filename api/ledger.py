"""The ledger: why a turn ended as it did, step by step."""

from __future__ import annotations

from typing import Any

from flask import Blueprint

import auth
from api import contract
from api.parts import cipher, tenant
from db import turns

routes = Blueprint("ledger", __name__)


@routes.get("/turns/<turn_id>")
@auth.require_business_api_key
@contract.contract(gives="turn")
def get_turn(business_id: str, turn_id: str) -> dict[str, Any]:
    """One turn with every step: prompt, raw and parsed output, verdict, tokens, cost, latency, attempts."""
    with tenant(business_id) as conn:
        turn = turns.get(conn, business_id, turn_id)
        steps = turns.list_steps(conn, business_id, cipher(conn, business_id), turn_id)
    return {**contract.shown(turn), "steps": steps}
