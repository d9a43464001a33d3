"""System calls that do not give the interpreter away say what those of the standard library say."""

from __future__ import annotations

import os
import socket
import uuid

import short_calls


def test_news_is_something_to_read_or_an_end() -> None:
    here, there = socket.socketpair()
    with here, there:
        assert not short_calls.has_news(here.fileno())
        there.send(b"word")
        assert short_calls.has_news(here.fileno())
        here.recv(4)
        assert not short_calls.has_news(here.fileno())
        there.close()
        assert short_calls.has_news(here.fileno())
    assert short_calls.has_news(here.fileno()), "what is closed cannot be asked"


def test_random_bytes_are_as_many_as_asked_for_and_never_the_same() -> None:
    assert [len(short_calls.random_bytes(count)) for count in (0, 1, 12, 100)] == [0, 1, 12, 100]
    drawn = [short_calls.random_bytes(12) for _ in range(10_000)]
    assert len(set(drawn)) == len(drawn)
    # Each bit is set in about half of them: 5,000 ± 50 is one standard deviation.
    for bit in range(96):
        share = sum(int.from_bytes(each, "big") >> bit & 1 for each in drawn)
        assert 4_500 < share < 5_500


def test_a_fork_draws_bytes_of_its_own() -> None:
    short_calls.random_bytes(12)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, short_calls.random_bytes(12))
        os._exit(0)
    os.waitpid(child, 0)
    told = os.read(reading, 12)
    os.close(reading)
    os.close(writing)
    assert len(told) == 12
    assert told != short_calls.random_bytes(12)


def test_a_new_id_is_a_uuid_of_version_4() -> None:
    made = short_calls.new_id()
    assert uuid.UUID(made).version == 4
    assert made == str(uuid.UUID(made))
