"""Orders: numbers, sums, customers, and whose products they may name."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.conftest import Answer, Client

ITEM = {"name": "The Lighthouse Atlas", "quantity": 3, "unit_price": 19.99}


def _new(**fields: Any) -> dict[str, Any]:
    return {"user_id": str(uuid.uuid4()), "items": [ITEM], "currency": "GBP", **fields}


def _made(client: Client, **fields: Any) -> dict[str, Any]:
    created = client.post("/api/v1/orders", _new(**fields))
    assert created.status == 201, created.body
    return dict(created.body)


def _refused(answer: Answer) -> str:
    assert (answer.status, answer.error_code) == (400, "INVALID_REQUEST"), answer.body
    return str(answer.body["details"])


def _but_for_request_id(answer: Answer) -> tuple[int, dict[str, Any]]:
    assert answer.error_code
    return answer.status, {name: value for name, value in answer.body.items() if name != "request_id"}


def test_an_order_is_read_changed_and_deleted(alice: Client) -> None:
    body = _new(order_number="4411", status="paid", total=59.97)
    created = alice.post("/api/v1/orders", body)
    assert created.status == 201
    assert created.body | body == created.body
    path = created.headers["Location"]
    assert alice.get(path).body == created.body
    changed = alice.patch(path, {"status": "shipped", "order_number": "A 4411/2"}).body
    assert (changed["status"], changed["order_number"], changed["total"]) == ("shipped", "A 4411/2", 59.97)
    assert alice.delete(path).status == 204
    assert alice.get(path).status == alice.delete(path).status == 404


def test_numbers_we_make_fit_the_pattern_of_four_digits_and_never_meet(alice: Client) -> None:
    with ThreadPoolExecutor(8) as threads:
        numbers = list(threads.map(lambda _: _made(alice)["order_number"], range(16)))
    assert len(set(numbers)) == 16
    assert all(re.fullmatch("[0-9]{4,}", number) for number in numbers)


def test_a_number_is_taken_once_in_a_business(alice: Client, charlie: Client) -> None:
    _made(alice, order_number="4411")
    _made(charlie, order_number="4411")
    path = f"/api/v1/orders/{_made(alice)['order_id']}"
    for answer in (
        alice.post("/api/v1/orders", _new(order_number="4411")),
        alice.patch(path, {"order_number": "4411"}),
    ):
        assert (answer.status, answer.error_code) == (409, "CONFLICT")
        assert "order_number" in answer.body["details"]


def test_a_total_is_computed_as_decimals_not_as_binary_fractions(alice: Client) -> None:
    tenths = [{"name": "Sticker", "quantity": 1, "unit_price": price} for price in (0.1, 0.2, 0.0001)]
    assert _made(alice, items=tenths)["total"] == 0.3001
    assert _made(alice, items=tenths, total=0.3001)["status"] == "new"
    assert _made(alice, items=[ITEM | {"quantity": 1_000_000}])["total"] == 19_990_000


def test_a_sum_of_binary_fractions_counts_as_the_decimal_that_was_meant(alice: Client) -> None:
    price = 0.1 + 0.2
    made = _made(alice, items=[{"name": "Sticker", "quantity": 1, "unit_price": price}], total=price)
    assert (repr(price), made["total"], made["items"][0]["unit_price"]) == ("0.30000000000000004", 0.3, 0.3)
    for wrong in (59.97001, 60_000_000.12345, 9_999_999_999.99991):
        assert "4 decimals" in _refused(alice.post("/api/v1/orders", _new(total=wrong)))


def test_an_item_is_named_by_what_was_sold_and_its_price_may_be_called_so(alice: Client) -> None:
    product = alice.post("/api/v1/products", {"name": "Atlas", "price": 5}).body["product_id"]
    service = alice.post("/api/v1/services", {"name": "Binding"}).body["service_id"]
    items = [
        {"product_id": product, "quantity": 2, "price": 5},
        {"service_id": service, "quantity": 1, "unit_price": 3},
    ]
    made = _made(alice, items=items)
    assert made["items"] == [
        {"name": "Atlas", "product_id": product, "quantity": 2, "unit_price": 5},
        {"name": "Binding", "service_id": service, "quantity": 1, "unit_price": 3},
    ]
    assert made["total"] == 13
    path = f"/api/v1/orders/{made['order_id']}"
    renamed = [{"name": "Atlas, used", "product_id": product, "quantity": 1, "price": 2}]
    assert alice.patch(path, {"items": renamed}).body["items"][0]["name"] == "Atlas, used"
    assert alice.patch(path, {"items": items}).body["items"][0]["name"] == "Atlas"
    assert alice.delete(f"/api/v1/products/{product}").status == 204
    again = [{"product_id": product, "quantity": 3, "price": 5}]
    assert alice.patch(path, {"items": again}).body["items"][0]["name"] == "Atlas"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": None}, "items[0].name"),
        ({"unit_price": None}, "items[0].unit_price"),
        ({"price": 20}, "items[0].unit_price"),
    ],
)
def test_an_item_without_a_name_or_with_no_price_or_two_is_refused(
    alice: Client, changes: dict[str, Any], told: str
) -> None:
    item = {name: value for name, value in (ITEM | changes).items() if value is not None}
    assert _refused(alice.post("/api/v1/orders", _new(items=[item]))).startswith(told)


def test_a_total_that_is_not_the_sum_is_refused_with_both_figures(alice: Client) -> None:
    details = _refused(alice.post("/api/v1/orders", _new(total=60)))
    assert details.startswith("total: 60 ")
    assert "59.97" in details


def test_changes_keep_total_and_items_together(alice: Client) -> None:
    path = f"/api/v1/orders/{_made(alice)['order_id']}"
    assert alice.patch(path, {"items": [ITEM | {"quantity": 1}]}).body["total"] == 19.99
    assert "19.99" in _refused(alice.patch(path, {"total": 20}))
    assert alice.patch(path, {"total": 19.99}).status == 200
    assert "39.98" in _refused(alice.patch(path, {"items": [ITEM | {"quantity": 2}], "total": 19.99}))
    assert "GBP" in _refused(alice.patch(path, {"currency": "EUR"}))
    changed = alice.patch(path, {"currency": "EUR", "items": [ITEM | {"unit_price": 25}]}).body
    assert (changed["currency"], changed["total"]) == ("EUR", 75)


@pytest.mark.parametrize(
    ("fields", "telling"),
    [
        ({"items": []}, "items"),
        ({"items": [ITEM] * 501}, "items"),
        ({"items": [ITEM, ITEM | {"quantity": 0}]}, "items[1].quantity"),
        ({"items": [ITEM | {"quantity": 1.5}]}, "items[0].quantity"),
        ({"items": [ITEM, ITEM | {"unit_price": 0.00001}]}, "items[1].unit_price"),
        ({"items": [ITEM | {"unit_price": -1}]}, "items[0].unit_price"),
        ({"items": [ITEM | {"quantity": 1_000_000, "unit_price": 10_000_000}]}, "total"),
        ({"items": [ITEM | {"colour": "red"}]}, "items[0].colour"),
        ({"total": 59.97001}, "total"),
        ({"currency": "gbp"}, "currency"),
        ({"currency": None}, "currency"),
        ({"user_id": "somebody"}, "user_id"),
        ({"order_number": "4411\n"}, "order_number"),
        ({"status": ""}, "status"),
        ({"created_at": "2026-01-01T00:00:00Z"}, "created_at"),
    ],
)
def test_what_is_no_order_is_refused_with_the_place_named(alice: Client, fields: dict[str, Any], telling: str) -> None:
    assert telling in _refused(alice.post("/api/v1/orders", _new(**fields)))


def test_an_order_of_500_items_is_kept_in_the_order_sent(alice: Client) -> None:
    items = [{"name": f"Book {number}", "quantity": 2.0, "unit_price": 0.07} for number in range(500)]
    order = _made(alice, items=items)
    assert order["total"] == 70
    assert [item["name"] for item in order["items"]] == [item["name"] for item in items]
    assert all(type(item["quantity"]) is int for item in order["items"])


def test_an_unknown_user_becomes_a_customer_and_a_known_one_keeps_the_role(
    alice: Client, sql: Callable[..., list[tuple[Any, ...]]]
) -> None:
    owner_id = alice.get(f"/api/v1/businesses/{alice.business_id}").body["owner_id"]
    order = _made(alice)
    assert _made(alice, user_id=owner_id.upper())["user_id"] == owner_id
    moved = str(uuid.uuid4())
    assert alice.patch(f"/api/v1/orders/{order['order_id']}", {"user_id": moved}).body["user_id"] == moved
    roles = dict(sql("SELECT user_id::text, role FROM memberships WHERE business_id = %s", alice.business_id))
    assert roles == {owner_id: "owner", order["user_id"]: "customer", moved: "customer"}


def test_a_refused_order_leaves_no_customer_behind(alice: Client, sql: Callable[..., list[tuple[Any, ...]]]) -> None:
    body = _new(order_number="4411")
    _made(alice, order_number="4411")
    assert alice.post("/api/v1/orders", body).status == 409
    assert sql("SELECT count(*) FROM users WHERE user_id = %s", body["user_id"]) == [(0,)]


def test_orders_outlive_the_customer(alice: Client, sql: Callable[..., list[tuple[Any, ...]]]) -> None:
    order = _made(alice)
    sql("DELETE FROM memberships WHERE business_id = %s AND user_id = %s", alice.business_id, order["user_id"])
    assert alice.get(f"/api/v1/orders/{order['order_id']}").body == order | {"user_id": None}


def test_items_name_products_and_services_of_the_business(alice: Client, charlie: Client) -> None:
    own = {
        kind: alice.post(f"/api/v1/{kind}s", {"name": "Thing"}).body[f"{kind}_id"] for kind in ("product", "service")
    }
    foreign = {
        kind: charlie.post(f"/api/v1/{kind}s", {"name": "Thing"}).body[f"{kind}_id"] for kind in ("product", "service")
    }
    for kind in ("product", "service"):
        name = f"{kind}_id"
        order = _made(alice, items=[ITEM, ITEM | {name: own[kind].upper()}])
        assert order["items"][1][name] == own[kind]
        answers = []
        for bad in (foreign[kind], str(uuid.uuid4())):
            details = _refused(alice.post("/api/v1/orders", _new(items=[ITEM, ITEM | {name: bad}])))
            assert details.startswith(f"items[1].{name}: ")
            answers.append(details.replace(bad, "id"))
        assert answers[0] == answers[1]
        assert own[kind] in _refused(alice.post("/api/v1/orders", _new(items=[ITEM | {_other(kind): own[kind]}])))


def _other(kind: str) -> str:
    return "service_id" if kind == "product" else "product_id"


def test_items_of_a_product_that_is_sold_no_more_can_still_be_corrected(alice: Client) -> None:
    product_id = alice.post("/api/v1/products", {"name": "Thing"}).body["product_id"]
    item = ITEM | {"product_id": product_id}
    path = f"/api/v1/orders/{_made(alice, items=[item])['order_id']}"
    assert alice.delete(f"/api/v1/products/{product_id}").status == 204
    assert alice.patch(path, {"items": [item | {"quantity": 1}]}).status == 200
    assert product_id in _refused(alice.post("/api/v1/orders", _new(items=[item])))


def test_list_is_newest_first_and_filtered(alice: Client) -> None:
    first, second, third = (_made(alice, status=status) for status in ("paid", "shipped", "paid"))

    def found(query: str) -> list[str]:
        return [order["order_id"] for order in alice.get(f"/api/v1/orders?{query}").body]

    assert found("") == [third["order_id"], second["order_id"], first["order_id"]]
    assert found("status=paid") == [third["order_id"], first["order_id"]]
    assert found(f"user_id={second['user_id'].upper()}") == [second["order_id"]]
    assert found(f"order_number={first['order_number']}") == [first["order_id"]]
    assert found(f"since={second['created_at']}&until={third['created_at']}") == [second["order_id"]]
    link = alice.get("/api/v1/orders?status=paid&limit=1").headers["Link"]
    assert [order["order_id"] for order in alice.get(link[link.index("/api") : link.index(">")]).body] == [
        first["order_id"]
    ]
    for query in ("user_id=me", "since=yesterday", "q=x"):
        assert alice.get(f"/api/v1/orders?{query}").status == 400


def test_charlie_asks_for_alices_order(alice: Client, charlie: Client) -> None:
    order = _made(alice)
    path, missing = f"/api/v1/orders/{order['order_id']}", f"/api/v1/orders/{uuid.uuid4()}"
    for method, body in (("GET", None), ("PATCH", {"status": "mine"}), ("DELETE", None)):
        theirs = _but_for_request_id(charlie.call(method, path, body))
        assert theirs == _but_for_request_id(charlie.call(method, missing, body))
        assert theirs[0] == 404
    for query in (f"order_number={order['order_number']}", f"user_id={order['user_id']}"):
        assert charlie.get(f"/api/v1/orders?{query}").body == []
    assert alice.get(path).body == order
    assert charlie.post("/api/v1/orders", _new(business_id=alice.business_id)).status == 403
    assert charlie.get(f"/api/v1/orders?business_id={alice.business_id}").status == 403
