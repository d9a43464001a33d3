"""When a request is here whole: at its last byte and not before, however it was cut up on the way."""

from __future__ import annotations

import pytest

from api.arrival import MAX_CHUNKED_BYTES, MAX_HEAD_BYTES, Arrival, State


def _request(*headers: str, body: bytes = b"") -> bytes:
    return "\r\n".join(["POST /api/v1/events HTTP/1.1", "Host: icmp.example", *headers, "", ""]).encode() + body


CHUNKED = "Transfer-Encoding: chunked"
WHOLE = {
    "without a body": _request(),
    "with a length": _request("Content-Length: 7", body=b'{"a":1}'),
    "length in capitals, with blanks": _request("CONTENT-LENGTH: \t 2 ", body=b"{}"),
    "length of nothing": _request("Content-Length: 0"),
    "a body that looks like heads": _request("Content-Length: 12", body=b"\r\n\r\nGET /\r\n\r\n"[:12]),
    "chunked": _request(CHUNKED, body=b"2\r\n{}\r\n0\r\n\r\n"),
    "many chunks": _request(CHUNKED, body=b"1\r\n{\r\n1\r\n}\r\nA\r\n0123456789\r\n0\r\n\r\n"),
    "chunk that looks like the last": _request(CHUNKED, body=b"7\r\n\r\n0\r\n\r\n\r\n000\r\n\r\n"),
    "chunk extensions": _request(CHUNKED, body=b"2;a=b\r\n{}\r\n0;c\r\n\r\n"),
    "trailers": _request(CHUNKED, body=b"2\r\n{}\r\n0\r\nX-Sum: 5\r\nX-More: 6\r\n\r\n"),
}


@pytest.mark.parametrize("case", WHOLE)
def test_a_request_is_whole_at_its_last_byte_and_not_before(case: str) -> None:
    for step in (1, 2, 3, 7, 1000):
        arrival = Arrival(0)
        for start in range(0, len(WHOLE[case]), step):
            assert arrival.state() is State.ON_THE_WAY, arrival.data
            arrival.data += WHOLE[case][start : start + step]
            arrival.state()
        assert arrival.state() is State.WHOLE
        arrival.data += b"GET / HTTP/1.1\r\n"  # the next one, sent ahead
        assert arrival.state() is State.WHOLE


@pytest.mark.parametrize(
    "broken",
    [
        _request("Content-Length: five"),
        _request("Content-Length: -5"),
        _request("Content-Length: 5, 5"),
        _request("Content-Length: 5", "Content-Length: 6"),
        _request("Content-Length: 5", CHUNKED),
        _request(CHUNKED, body=b"zz\r\n"),
        _request(CHUNKED, body=b"-2\r\n"),
        _request(CHUNKED, body=b"2\r\n{}XX"),
        _request(CHUNKED, body=b"\r\n"),
        _request(CHUNKED, body=b"f" * 16 + b"\r\n"),
        _request(CHUNKED, body=b"0" * 5000),
    ],
)
def test_what_its_reader_refuses_at_once_is_not_waited_for(broken: bytes) -> None:
    assert Arrival(0, bytearray(broken)).state() is State.WHOLE


def test_what_is_too_much_is_known_before_it_is_here() -> None:
    assert Arrival(0, bytearray(b"A" * (MAX_HEAD_BYTES - 1))).state() is State.ON_THE_WAY
    assert Arrival(0, bytearray(b"A" * MAX_HEAD_BYTES)).state() is State.HEAD_TOO_LONG
    assert Arrival(0, bytearray(_request(f"Content-Length: {4 * 2**20}"))).state() is State.ON_THE_WAY
    assert Arrival(0, bytearray(_request(f"Content-Length: {4 * 2**20 + 1}"))).state() is State.BODY_TOO_LARGE
    endless = Arrival(0, bytearray(_request(CHUNKED, body=b"fffffff\r\n")))
    assert endless.state() is State.ON_THE_WAY
    endless.data += b"x" * MAX_CHUNKED_BYTES
    assert endless.state() is State.BODY_TOO_LARGE


def test_who_waits_to_be_asked_is_asked_once_and_for_a_body_only() -> None:
    asked = Arrival(0, bytearray(_request("EXPECT: 100-Continue", "Content-Length: 2", "X-A: b")))
    assert asked.state() is State.ON_THE_WAY
    assert [asked.takes_up_expectation() for _ in range(2)] == [True, False]
    assert b"EXPECT" not in asked.data
    asked.data += b"{"
    assert asked.state() is State.ON_THE_WAY
    asked.data += b"}"
    assert asked.state() is State.WHOLE
    for other in (
        _request("Expect: 100-continue"),
        _request("Expect: 100-continue", "Content-Length: 2", body=b"{}"),
        _request("Expect: gold", "Content-Length: 2"),
    ):
        arrival = Arrival(0, bytearray(other))
        arrival.state()
        assert not arrival.takes_up_expectation()
        assert arrival.data == other
