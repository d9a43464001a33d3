"""Answers that stream: told as they come, the same in the end, and bounded whatever the server does."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from nlp import llm, llm_stream, offline
from nlp.errors import ModelUnavailable
from nlp.llm_replies import BadReply
from tests.nlp import model_server as play
from tests.nlp import streams
from tests.nlp.model_server import REQUEST, Behaviour, Server, model
from tests.nlp.streams import DONE, chunk, event, words


@pytest.fixture
def server() -> Iterator[Server]:
    with play.running() as running:
        yield running


def ask(asked: llm.Model, **changes: Any) -> tuple[llm.Answer, list[str]]:
    """The answer, and the pieces that were told."""
    told: list[str] = []
    return asked.ask(replace(REQUEST, on_text=told.append, **changes)), told


def refused(asked: llm.Model, **changes: Any) -> tuple[ModelUnavailable, list[str]]:
    told: list[str] = []
    return play.refused(asked, replace(REQUEST, on_text=told.append, **changes)), told


def test_stream_gives_the_same_answer_as_a_plain_call_and_tells_its_pieces(server: Server) -> None:
    server.script = [streams.streams(words("Hel", "lo", "."))]
    answer, told = ask(model(server))
    assert told == ["Hel", "lo", "."]
    server.script = [play.answers()]
    plain = model(server).ask(REQUEST)
    assert replace(answer, latency_ms=0) == replace(plain, latency_ms=0)
    assert [body.get("stream") for body in server.bodies] == [True, None]
    assert server.bodies[0]["stream_options"] == {"include_usage": True}


def test_pieces_are_told_while_the_server_is_still_writing(server: Server) -> None:
    heard = threading.Event()

    def waits(handler: play.Handler) -> None:
        streams.begin(handler)
        streams.send(handler, chunk("Hel"))
        assert heard.wait(5)
        for piece in (chunk("lo.", "stop"), DONE):
            streams.send(handler, piece)
        handler.wfile.write(b"0\r\n\r\n")

    server.script = [waits]
    told: list[str] = []

    def listen(text: str) -> None:
        told.append(text)
        heard.set()

    answer = model(server).ask(replace(REQUEST, on_text=listen))
    assert (answer.text, answer.attempts, told) == ("Hello.", 1, ["Hel", "lo."])


WHOLE = b"".join(words("Hel", "lö", " \U0001f600."))


@pytest.mark.parametrize(
    "pieces",
    [
        [WHOLE],
        [WHOLE[at : at + 1] for at in range(len(WHOLE))],
        [WHOLE.replace(b"\n", b"\r\n")],
        [WHOLE.replace(b"\n", b"\r\n")[at : at + 7] for at in range(0, 2 * len(WHOLE), 7)],
        [b": a comment\n\n", b"event: message\nid: 4\nretry: 9\n", WHOLE],
        [WHOLE.replace(b"data: ", b"data:")],
        [WHOLE.removesuffix(b"\n\n")],
        [WHOLE, b"data: what comes after the end does not matter\n\n"],
        [WHOLE.replace(b'"choices": [', b'\ndata: "choices": [')],
    ],
)
def test_events_are_read_however_they_are_cut_and_dressed(pieces: list[bytes]) -> None:
    told: list[str] = []
    fields = llm_stream.parsed([piece for piece in pieces if piece], llm_stream.Listener(told.append), 4096)
    assert (fields["text"], fields["finish_reason"], fields["prompt_tokens"]) == ("Hellö \U0001f600.", "stop", 12)
    assert "".join(told) == fields["text"]


@pytest.mark.parametrize(
    ("halves", "text"),
    [
        (["\ud83d", "\ude00 x"], "\U0001f600 x"),
        (["a\ud83d", "b"], "a\ufffdb"),
        (["a", "\ud83d"], "a\ufffd"),
        (["\ude00"], "\ufffd"),
    ],
)
def test_character_in_two_halves_is_told_whole(halves: list[str], text: str) -> None:
    told: list[str] = []
    fields = llm_stream.parsed(words(*halves), llm_stream.Listener(told.append), 4096)
    assert ("".join(told), fields["text"]) == (text, text)


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([chunk(refusal="I will "), chunk(refusal="not.", finish_reason="stop"), DONE], (None, "I will not.", "stop")),
        ([chunk("Half", "length"), DONE], ("Half", None, "length")),
        ([chunk(finish_reason="stop"), DONE], (None, None, "stop")),
        ([chunk("No reason"), DONE], ("No reason", None, None)),
        ([event({"choices": [{"index": 1, "delta": {"content": "other"}}]}), *words("One")], ("One", None, "stop")),
        ([event({"choices": None}), event({}), *words("One")], ("One", None, "stop")),
    ],
)
def test_what_the_model_says_is_handed_up(server: Server, pieces: list[bytes], expected: tuple[Any, ...]) -> None:
    server.script = [streams.streams(pieces)]
    answer, told = ask(model(server))
    assert (answer.text, answer.refusal, answer.finish_reason) == expected
    assert "".join(told) == (expected[0] or "")


def test_usage_that_is_missing_counts_as_nothing(server: Server) -> None:
    server.script = [streams.streams([chunk("Hello.", "stop"), DONE])]
    answer, _ = ask(model(server))
    assert (answer.prompt_tokens, answer.completion_tokens) == (0, 0)


FAULTS: list[tuple[Behaviour, str]] = [
    (streams.streams([DONE]), "bad_response"),
    (streams.streams([]), "bad_response"),
    (streams.streams([b"data: {\n\n"]), "bad_response"),
    (streams.streams([b"data: " + b"[" * 100_000 + b"\n\n"]), "bad_response"),
    (streams.streams([b"data: \xff\n\n"]), "bad_response"),
    (streams.streams([event([])]), "bad_response"),
    (streams.streams([event({"choices": [{"delta": {"content": 5}}]})]), "bad_response"),
    (streams.streams([event({"choices": [5]})]), "bad_response"),
    (streams.streams([event({"choices": []}), DONE]), "bad_response"),
    (streams.streams([b"<html>"], content_type="text/html"), "bad_response"),
    (streams.streams([event({"error": {"message": "secret"}})]), "server_error"),
    (streams.streams([event({"error": "secret"})]), "server_error"),
    (streams.streams([event({"error": {"code": 502}})]), "server_error"),
    (streams.streams([event({"error": {"code": "rate_limit_exceeded"}})]), "rate_limited"),
    (streams.streams([event({"error": {"code": 429}})]), "rate_limited"),
    (streams.resets_after([]), "connection"),
    (play.cuts, "connection"),
    (play.fails(500), "server_error"),
    (play.fails(429), "rate_limited"),
]


@pytest.mark.parametrize(("behaviour", "reason"), FAULTS)
def test_passing_fault_before_the_first_word_is_tried_again(server: Server, behaviour: Behaviour, reason: str) -> None:
    server.script = [behaviour, streams.streams(words("Hello."))]
    answer, told = ask(model(server))
    assert (answer.text, answer.attempts, told) == ("Hello.", 2, ["Hello."])
    server.script = [behaviour]
    error, _ = refused(model(server))
    assert (error.reason, error.attempts) == (reason, 3)


@pytest.mark.parametrize(
    ("error", "reason"),
    [({"code": "insufficient_quota"}, "quota"), ({"code": 400}, "rejected"), ({"code": 401}, "unauthorized")],
)
def test_hopeless_fault_in_a_stream_is_not_tried_again(server: Server, error: dict[str, Any], reason: str) -> None:
    server.script = [streams.streams([event({"error": error})])]
    problem, told = refused(model(server))
    assert (problem.reason, problem.attempts, told) == (reason, 1, [])


BROKEN_OFF = [
    streams.resets_after([chunk("Hel")]),
    streams.streams([chunk("Hel")]),
    streams.streams([chunk("Hel"), event({"error": {"message": "no"}})]),
    streams.streams([chunk("Hel"), b"data: {\n\n"]),
]


@pytest.mark.parametrize("behaviour", BROKEN_OFF)
def test_after_the_first_word_a_retry_tells_nothing_more(server: Server, behaviour: Behaviour) -> None:
    server.script = [behaviour, play.answers()]
    answer, told = ask(model(server))
    assert (answer.text, answer.attempts, told) == ("Hello.", 2, ["Hel"])
    assert [body.get("stream") for body in server.bodies] == [True, None]


@pytest.mark.parametrize(
    "behaviour",
    [
        play.hangs,
        play.drips,
        play.drips_headers,
        play.drips_error,
        play.stalls,
        streams.drips,
        streams.streams([], ends=False),
        streams.streams([chunk("Hel")], ends=False),
    ],
)
def test_stream_ends_at_its_deadline_however_the_server_dawdles(server: Server, behaviour: Behaviour) -> None:
    server.script = [behaviour]
    started = time.monotonic()
    error, told = refused(model(server, call_timeout_s=0.4))
    assert (error.reason, error.timed_out, "".join(told) in ("", "Hel")) == ("timeout", True, True)
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("piece", [chunk("x" * 500), b"x" * 60_000, b": nothing\n\n", chunk("")])
def test_flood_of_a_stream_is_cut_off_early(server: Server, piece: bytes) -> None:
    server.script = [streams.floods(piece)]
    error, told = refused(model(server))
    assert (error.reason, error.attempts) == ("too_large", 1)
    assert sum(map(len, told)) <= 256 * 1024
    assert server.flooded < 50_000_000


def test_long_answer_of_many_small_pieces_fits(server: Server) -> None:
    server.script = [streams.streams(words(*["word "] * 6000))]
    answer, told = ask(model(server))
    assert (len(answer.text or ""), len(told)) == (30_000, 6000)


def test_end_of_the_stream_is_not_waited_for(server: Server) -> None:
    server.script = [streams.streams(words("Hello."), ends=False)]
    started = time.monotonic()
    answer, _ = ask(model(server))
    assert answer.text == "Hello."
    assert time.monotonic() - started < 3


def test_connection_of_a_finished_stream_is_kept(server: Server) -> None:
    server.script = [streams.streams(words("Hello."))]
    asked = model(server)
    for _ in range(3):
        ask(asked)
    assert (len(server.bodies), len(server.ports)) == (3, 1)


def test_server_that_does_not_stream_is_heard_whole(server: Server) -> None:
    answer, told = ask(model(server))
    assert (answer.text, told) == ("Hello.", ["Hello."])


@pytest.mark.parametrize(
    ("complaint", "left"),
    [
        ({"message": "Unknown parameter: 'stream_options'", "param": "stream_options"}, {"stream"}),
        ({"message": "not supported", "param": "stream_options.include_usage"}, {"stream"}),
        ({"message": "Extra inputs are not permitted: stream_options"}, {"stream"}),
        ({"message": "'stream' is not supported here"}, {"stream_options"}),
    ],
)
@pytest.mark.parametrize("status", [400, 422])
def test_server_that_refuses_a_setting_of_streams_is_asked_without_it_from_then_on(
    server: Server, complaint: dict[str, Any], left: set[str], status: int
) -> None:
    server.script = [play.fails(status, **complaint), play.answers()]
    asked = model(server)
    assert [ask(asked)[0].attempts for _ in range(2)] == [2, 1]
    assert [body.keys() & {"stream", "stream_options"} for body in server.bodies[1:]] == [left, left]


def test_listener_that_gives_up_ends_the_call(server: Server) -> None:
    class GoneAway(Exception):
        """Nobody listens any more."""

    def leave(_text: str) -> None:
        raise GoneAway

    server.script = [streams.streams([chunk("Hel")], ends=False)]
    started = time.monotonic()
    with pytest.raises(GoneAway):
        model(server).ask(replace(REQUEST, on_text=leave))
    assert time.monotonic() - started < 3


def test_offline_model_streams_the_same_words(server: Server) -> None:
    asked = llm.Model(None, "http://offline/v1", http_transport=offline.transport())
    greeting = ({"role": "user", "content": "hello"},)
    answer, told = ask(asked, messages=greeting)
    plain = asked.ask(replace(REQUEST, messages=greeting))
    assert replace(answer, latency_ms=0) == replace(plain, latency_ms=0)
    assert answer.prompt_tokens > 0
    assert "".join(told) == answer.text
    assert len(told) > 1


def test_line_without_an_end_is_not_kept_for_ever() -> None:
    with pytest.raises(BadReply, match="too_large"):
        list(llm_stream.events(iter([b"x" * 60] * 3), 100))
