"""What services have beyond products; the rest is tested with these."""

from __future__ import annotations

import pytest

from tests.conftest import Client

REPAIR = {"name": "Book repair", "price": 35, "currency": "GBP", "duration_minutes": 90}


def test_a_service_takes_its_time(alice: Client) -> None:
    created = alice.post("/api/v1/services", REPAIR)
    assert (created.status, created.body["duration_minutes"]) == (201, 90)
    path = created.headers["Location"]
    assert alice.patch(path, {"duration_minutes": None}).body["duration_minutes"] is None
    assert alice.post("/api/v1/services", {"name": "Advice"}).body["duration_minutes"] is None


@pytest.mark.parametrize("minutes", [0, -5, 1.5, "90", 525_601])
def test_a_time_that_is_none_is_refused(alice: Client, minutes: object) -> None:
    answer = alice.post("/api/v1/services", REPAIR | {"duration_minutes": minutes})
    assert (answer.status, answer.error_code) == (400, "INVALID_REQUEST")
    assert "duration_minutes" in answer.body["details"]


def test_only_services_take_time(alice: Client) -> None:
    assert alice.post("/api/v1/products", REPAIR).status == 400


def test_the_business_lists_its_services_by_name(alice: Client) -> None:
    for name in ("Book repair", "Advice"):
        alice.post("/api/v1/services", {"name": name})
    assert alice.get(f"/api/v1/businesses/{alice.business_id}").body["service_list"] == ["Book repair", "Advice"]
