"""The catalogue: products, and services wherever they behave the same."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.conftest import Answer, Client

ATLAS = {
    "name": "The Lighthouse Atlas",
    "description": "Maps of the North Sea",
    "price": 24.99,
    "currency": "GBP",
    "sku": "BK-1042",
    "attributes": {"author": "Ann Keeper", "pages": 212, "tags": ["sea", "maps"]},
}


@pytest.fixture(params=["product", "service"])
def kind(request: pytest.FixtureRequest) -> str:
    """What is on the shelf; its path is the plural."""
    return str(request.param)


def _made(client: Client, kind: str, **fields: Any) -> dict[str, Any]:
    created = client.post(f"/api/v1/{kind}s", {"name": "Thing", **fields})
    assert created.status == 201, created.body
    return dict(created.body)


def _names(client: Client, kind: str, query: str) -> list[str]:
    answer = client.get(f"/api/v1/{kind}s?{query}")
    assert answer.status == 200, answer.body
    return [each["name"] for each in answer.body]


def _but_for_request_id(answer: Answer) -> tuple[int, dict[str, Any]]:
    assert answer.error_code
    return answer.status, {name: value for name, value in answer.body.items() if name != "request_id"}


def test_what_was_created_is_read_changed_and_deleted(alice: Client, kind: str) -> None:
    created = alice.post(f"/api/v1/{kind}s", ATLAS)
    path = created.headers["Location"]
    assert path == f"/api/v1/{kind}s/{created.body[f'{kind}_id']}"
    assert created.body | ATLAS | {"business_id": alice.business_id, "active": True} == created.body
    assert alice.get(path).body == created.body
    changed = alice.patch(path, {"price": 20, "attributes": {"pages": 213}}).body
    assert (changed["price"], changed["attributes"], changed["sku"]) == (20, {"pages": 213}, "BK-1042")
    assert changed["updated_at"] > created.body["updated_at"]
    assert alice.delete(path).status == 204
    assert alice.get(path).status == alice.delete(path).status == 404


def test_a_name_is_enough(alice: Client, kind: str) -> None:
    thing = _made(alice, kind)
    assert (thing["description"], thing["attributes"], thing["active"]) == ("", {}, True)
    assert thing["price"] is thing["currency"] is thing["sku"] is None


@pytest.mark.parametrize("price", [0, 0.1, 19.99, 4.35, 0.0001, 1234567.8901, 99999999999.9999])
def test_prices_come_back_as_they_were_sent(alice: Client, price: float) -> None:
    assert _made(alice, "product", price=price, currency="EUR")["price"] == price


@pytest.mark.parametrize(
    ("fields", "telling"),
    [
        ({"price": 1.00001, "currency": "EUR"}, "4 decimals"),
        ({"price": -1, "currency": "EUR"}, "price"),
        ({"price": 1e300, "currency": "EUR"}, "price"),
        ({"price": "5", "currency": "EUR"}, "price"),
        ({"currency": "eur"}, "currency"),
        ({"currency": "EUR\n"}, "currency"),
        ({"sku": "BK-1 "}, "sku"),
        ({"sku": "BK-1\n"}, "sku"),
        ({"name": " "}, "name"),
        ({"attributes": {"long": "ü" * 9000}}, "attributes"),
        ({"attributes": []}, "attributes"),
        ({"search": "x"}, "search"),
        ({"product_id": str(uuid.uuid4())}, "product_id"),
    ],
)
def test_what_is_no_product_is_refused_with_the_field_named(
    alice: Client, fields: dict[str, Any], telling: str
) -> None:
    answer = alice.post("/api/v1/products", {"name": "Thing", **fields})
    assert (answer.status, answer.error_code) == (400, "INVALID_REQUEST")
    assert telling in answer.body["details"]


def test_a_price_needs_no_currency_where_there_is_but_one(alice: Client, kind: str) -> None:
    made = _made(alice, kind, price=3.5)
    assert (made["price"], made["currency"]) == (3.5, None)
    path = f"/api/v1/{kind}s/{made[f'{kind}_id']}"
    assert alice.patch(path, {"price": 5, "currency": "EUR"}).body["currency"] == "EUR"
    assert alice.patch(path, {"currency": None}).body["price"] == 5


def test_a_sku_is_taken_once_in_a_business(alice: Client, charlie: Client, kind: str) -> None:
    _made(alice, kind, sku="BK-1")
    other = _made(alice, kind, sku="BK-2")
    _made(charlie, kind, sku="BK-1")
    for answer in (
        alice.post(f"/api/v1/{kind}s", {"name": "Thing", "sku": "BK-1"}),
        alice.patch(f"/api/v1/{kind}s/{other[f'{kind}_id']}", {"sku": "BK-1"}),
    ):
        assert (answer.status, answer.error_code) == (409, "CONFLICT")
        assert "sku" in answer.body["details"]


def test_search_finds_words_of_name_description_sku_and_attributes(alice: Client, charlie: Client, kind: str) -> None:
    _made(charlie, kind, **ATLAS)
    _made(alice, kind, **ATLAS)
    tea = _made(alice, kind, name="Tea", description="Grün, aus den Bergen. Maps no sea.", attributes={"pages": 40})
    for query in (
        "lighthouse",
        "MAPS+north",
        "BK-1042",
        "keeper",
        "212",
        "%22north+sea%22",
        "maps+-tea",
        "grün+or+atlas",
    ):
        expected = ["Tea", ATLAS["name"]] if "or" in query.split("+") else [ATLAS["name"]]
        assert _names(alice, kind, f"q={query.replace('ü', '%C3%BC')}") == expected, query
    for query in ("car", "'", "%22%22%22", "!%26%7C():*", "+", "author"):
        assert _names(alice, kind, f"q={query}") == [], query
    alice.patch(f"/api/v1/{kind}s/{tea[f'{kind}_id']}", {"description": "Black"})
    assert _names(alice, kind, "q=bergen") == []


@pytest.mark.parametrize("query", ["hdmi", "usb", "usb-c", "USB-C/HDMI", "1042", "AB-1042", "AB+1042", "usb+c"])
def test_search_finds_words_that_signs_join(alice: Client, kind: str, query: str) -> None:
    made = _made(alice, kind, name="USB-C/HDMI adapter", sku="AB-1042")
    _made(alice, kind, name="Lamp", sku="AB-1043")
    assert _names(alice, kind, f"q={query}") == [made["name"]]


def test_the_longest_texts_can_be_stored_and_searched(alice: Client) -> None:
    numbers = [float(f"{number / 100}e{power}") for power in (307, 306) for number in range(101, 800)]
    words = "".join(f"{chr(0x4E00 + place)}-" for place in range(8000))
    product = _made(alice, "product", description=words, attributes={"numbers": numbers})
    assert [float(number) for number in product["attributes"]["numbers"]] == numbers
    assert alice.post("/api/v1/products", {"name": "x", "description": "😀 " * 8000}).status == 201


def test_list_is_newest_first_by_page_and_by_activity(alice: Client, kind: str) -> None:
    for number in range(5):
        _made(alice, kind, name=f"tea {number}", active=number % 2 == 0)
    seen: list[str] = []
    path: str | None = f"/api/v1/{kind}s?limit=2&q=tea"
    while path and len(seen) < 5:
        page = alice.get(path)
        seen += [each["name"] for each in page.body]
        link = page.headers.get("Link", "")
        path = link[link.index("/api") : link.index(">")] if link else None
    assert seen == ["tea 4", "tea 3", "tea 2", "tea 1", "tea 0"]
    assert _names(alice, kind, "limit=2&offset=1") == ["tea 3", "tea 2"]
    assert _names(alice, kind, "active=false") == ["tea 3", "tea 1"]
    assert alice.get(f"/api/v1/{kind}s?active=maybe").status == 400


def test_charlie_asks_for_alices_row(alice: Client, charlie: Client, kind: str) -> None:
    path = f"/api/v1/{kind}s/{_made(alice, kind)[f'{kind}_id']}"
    missing = f"/api/v1/{kind}s/{uuid.uuid4()}"
    for method, body in (("GET", None), ("PATCH", {"name": "mine"}), ("DELETE", None)):
        theirs = _but_for_request_id(charlie.call(method, path, body))
        assert theirs == _but_for_request_id(charlie.call(method, missing, body))
        assert theirs[0] == 404
    assert charlie.get(f"/api/v1/{kind}s").body == []
    assert alice.get(path).body["name"] == "Thing"
    assert charlie.post(f"/api/v1/{kind}s", {"business_id": alice.business_id, "name": "Thing"}).status == 403


def test_the_master_names_the_business(master: Client, alice: Client, kind: str) -> None:
    body = {"business_id": alice.business_id, "name": "Thing"}
    thing = master.post(f"/api/v1/{kind}s", body).body
    path = f"/api/v1/{kind}s/{thing[f'{kind}_id']}"
    assert master.patch(path, body | {"name": "Other"}).body["name"] == "Other"
    assert master.get(f"{path}?business_id={alice.business_id}").status == 200
    assert master.get(path).status == 400


def test_the_business_lists_its_products(alice: Client) -> None:
    made = [_made(alice, "product")["product_id"] for _ in range(2)]
    path = f"/api/v1/businesses/{alice.business_id}"
    assert alice.get(path).body["product_list"] == made
    alice.delete(f"/api/v1/products/{made[0]}")
    assert alice.get(path).body["product_list"] == made[1:]
