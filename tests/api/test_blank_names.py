"""What people are told apart by is never only blanks: nobody could read it, and a model least of all."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api import shop
from tests.conftest import Client

BLANKS = (" ", "\t\n", "\u3000")


@pytest.mark.parametrize("blank", BLANKS)
@pytest.mark.parametrize("field", ["stage_name", "stage_type", "stage_description"])
def test_a_stage_says_what_it_is(alice: Client, field: str, blank: str) -> None:
    body = shop.stage("order_status") | {"business_id": alice.business_id, field: blank}
    _check(alice.post("/api/v1/stages", body), field)


@pytest.mark.parametrize("blank", BLANKS)
def test_a_business_has_a_name(alice: Client, master: Client, blank: str) -> None:
    path = "/api/v1/businesses"
    _check(master.post(path, {"business_name": blank, "owner_id": alice.business_id}), "business_name")
    _check(alice.patch(f"{path}/{alice.business_id}", {"business_name": blank}), "business_name")


@pytest.mark.parametrize("blank", BLANKS)
def test_a_key_and_a_person_have_names_to_be_told_by(alice: Client, blank: str) -> None:
    _check(alice.post(f"/api/v1/businesses/{alice.business_id}/api-keys", {"name": blank}), "name")
    _check(alice.post("/api/v1/users", {"name": blank, "business_id": alice.business_id}), "name")


def _check(refused: Any, field: str) -> None:
    assert (refused.status, refused.body["details"]) == (400, f"{field}: blank"), refused.body
