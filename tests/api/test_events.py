"""Analytics events: taken from anybody, all or nothing, each once; read by the business alone."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.conftest import Answer, Client

AT = "2026-01-02T03:04:05Z"


def _event(client: Client, **changes: Any) -> dict[str, Any]:
    body = {"event_id": str(uuid.uuid4()), "business_id": client.business_id, "event_type": "page_view"}
    return body | {"event_timestamp": AT} | changes


def _ids(answer: Answer) -> list[str]:
    assert answer.status == 200, answer.body
    return [event["event_id"] for event in answer.body]


def test_one_event_is_answered_as_sent_and_read_by_its_business(anybody: Client, alice: Client) -> None:
    sent = _event(alice, user_id=str(uuid.uuid4()), event_data={"page": "/books/42", "n": 1.5})
    stored = anybody.post("/api/v1/events", sent)
    assert (stored.status, stored.body) == (201, sent)
    [read] = alice.get("/api/v1/events").body
    assert read | sent | {"event_timestamp": "2026-01-02T03:04:05.000000Z"} == read


def test_an_array_is_stored_whole_up_to_500(anybody: Client, alice: Client) -> None:
    events = [_event(alice) for _ in range(500)]
    stored = anybody.post("/api/v1/events", events)
    assert (stored.status, stored.body) == (201, events)
    assert len(alice.get("/api/v1/events?limit=500").body) == 500
    refused = anybody.post("/api/v1/events", [*events, _event(alice)])
    assert (refused.status, refused.error_code) == (400, "INVALID_REQUEST")
    assert anybody.call("POST", "/api/v1/events", raw=b"[]").status == 201


def test_one_bad_event_refuses_the_batch_and_is_named_by_its_index(anybody: Client, alice: Client) -> None:
    bad = (
        {"event_timestamp": "2023-13-01"},
        {"event_id": "7"},
        {"event_type": ""},
        {"colour": "red"},
        {"business_id": str(uuid.uuid4())},
    )
    for fault in bad:
        refused = anybody.post("/api/v1/events", [_event(alice), _event(alice), _event(alice, **fault)])
        assert (refused.status, refused.error_code) == (400, "INVALID_REQUEST")
        assert "[2]" in refused.body["details"], refused.body
    assert alice.get("/api/v1/events").body == []


def test_the_same_event_again_is_accepted_once(anybody: Client, alice: Client) -> None:
    first = _event(alice, event_type="first")
    later = first | {"event_type": "later", "event_id": first["event_id"].upper()}
    for body in (first, later, [later, _event(alice), later]):
        assert anybody.post("/api/v1/events", body).status == 201
    read = alice.get("/api/v1/events?event_type=first").body
    assert [event["event_id"] for event in read] == [first["event_id"]]
    assert len(alice.get("/api/v1/events").body) == 2


def test_one_batch_may_speak_of_several_businesses(anybody: Client, alice: Client, charlie: Client) -> None:
    ours, theirs = _event(alice), _event(charlie)
    # The same id twice: an event_id is a business's own, another one's cannot shadow it.
    theirs_too = _event(charlie, event_id=ours["event_id"])
    assert anybody.post("/api/v1/events", [ours, theirs, theirs_too]).status == 201
    assert _ids(alice.get("/api/v1/events")) == [ours["event_id"]]
    assert set(_ids(charlie.get("/api/v1/events"))) == {theirs["event_id"], ours["event_id"]}


def test_an_unknown_business_is_refused(anybody: Client, alice: Client) -> None:
    refused = anybody.post("/api/v1/events", _event(alice, business_id=str(uuid.uuid4())))
    assert (refused.status, refused.error_code) == (400, "INVALID_REQUEST")
    assert refused.body["details"].startswith("business_id")


def test_filters_and_pages_are_newest_first(anybody: Client, alice: Client) -> None:
    somebody = str(uuid.uuid4())
    events = [_event(alice, event_timestamp=f"2026-01-0{day}T00:00:00Z") for day in (1, 2, 3)]
    events[1] |= {"event_type": "click", "user_id": somebody}
    assert anybody.post("/api/v1/events", events).status == 201
    first, second, third = (event["event_id"] for event in events)
    assert _ids(alice.get("/api/v1/events")) == [third, second, first]
    assert _ids(alice.get("/api/v1/events?event_type=click")) == [second]
    assert _ids(alice.get(f"/api/v1/events?user_id={somebody}")) == [second]
    # `since` is inclusive, `until` is not; an offset is an offset.
    for plus in ("%2B", "+"):  # which means a blank in a query, and is what many programs send
        since = f"2026-01-02T02:00:00{plus}02:00"
        assert _ids(alice.get(f"/api/v1/events?since={since}&until=2026-01-03T00:00:00Z")) == [second]
    assert _ids(alice.get("/api/v1/events?limit=1&offset=1")) == [second]
    page = alice.get("/api/v1/events?limit=2")
    link = page.headers["Link"]
    assert _ids(alice.get(link[link.index("/api") : link.index(">")])) == [first]
    full = alice.get("/api/v1/events?limit=3")
    assert (_ids(full), "Link" in full.headers) == ([third, second, first], False)


FORMS = {
    "2026-01-02T08:34:05+05:30": "2026-01-02T03:04:05.000000Z",
    "20260102T030405Z": "2026-01-02T03:04:05.000000Z",
    "2026-W01-5T03:04:05Z": "2026-01-02T03:04:05.000000Z",
    "2026-01-02T03:04Z": "2026-01-02T03:04:00.000000Z",
    "2026-01-02T03:04:05,123456789Z": "2026-01-02T03:04:05.123456Z",
    "0001-01-01T00:00:00Z": "0001-01-01T00:00:00.000000Z",
    "9999-12-31T23:59:59.999999Z": "9999-12-31T23:59:59.999999Z",
}


@pytest.mark.parametrize(("sent", "read"), FORMS.items())
def test_every_form_of_iso_8601_is_kept_as_its_moment(anybody: Client, alice: Client, sent: str, read: str) -> None:
    stored = anybody.post("/api/v1/events", _event(alice, event_timestamp=sent))
    assert (stored.status, stored.body["event_timestamp"]) == (201, sent)
    assert alice.get("/api/v1/events").body[0]["event_timestamp"] == read


@pytest.mark.parametrize("sent", FORMS)
def test_an_accepted_event_is_as_the_document_promises(anybody: Client, alice: Client, sent: str) -> None:
    event = _event(alice, event_timestamp=sent)
    document = anybody.get("/openapi.json").body
    content = document["paths"]["/api/v1/events"]["post"]["responses"]["201"]["content"]
    schema = content["application/json"]["schema"] | {"components": document["components"]}
    # Here "date-time" is what RFC 3339 takes for one, as it is to every reader of the document.
    validator = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    for body in (event, [event]):
        answer = anybody.post("/api/v1/events", body)
        assert answer.status == 201
        assert [fault.message for fault in validator.iter_errors(answer.body)] == []


def test_what_is_no_moment_is_refused(anybody: Client, alice: Client) -> None:
    for text in (
        "2023-13-01",
        "2026-01-02",
        "2026-01-02T03:04:05",
        "2026-02-30T00:00:00Z",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-01:00",
        "yesterday",
        "",
        1767322645,
        None,
    ):
        refused = anybody.post("/api/v1/events", _event(alice, event_timestamp=text))
        assert (refused.status, refused.error_code) == (400, "INVALID_REQUEST"), text
    assert alice.get("/api/v1/events?since=2026-01-02").status == 400


def test_charlie_reads_none_of_alices_events(anybody: Client, alice: Client, charlie: Client) -> None:
    assert anybody.post("/api/v1/events", _event(alice)).status == 201
    assert charlie.get("/api/v1/events").body == []
    assert charlie.get(f"/api/v1/events?business_id={alice.business_id}").status == 403
    assert anybody.get("/api/v1/events").status == 401
