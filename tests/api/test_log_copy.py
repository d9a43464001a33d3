"""The log's lines on standard output: whole, in order, and without anybody waiting for who reads them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from api import log_copy
from tests.waiting import until

PIPE_BYTES = 1024 * 1024  # more than a pipe holds


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "icmp.log"
    path.write_bytes(b"of an earlier run\n")
    return path


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield reader, writer
    for end in (reader, writer):
        try:
            os.close(end)
        except OSError:  # a test closed it
            continue


def _add(log: Path, text: bytes) -> None:
    with log.open("ab") as file:
        file.write(text)


def test_lines_of_this_run_are_passed_on_the_last_ones_too(log: Path, pipe: tuple[int, int]) -> None:
    copy, seen = log_copy.LogCopy(log, pipe[1]), bytearray()
    _add(log, b"1\n")
    copy.start()
    assert os.read(pipe[0], 100) == b"1\n"  # before anything else is said
    _add(log, b"2\n")

    def is_told() -> bool:
        try:
            seen.extend(os.read(pipe[0], 100))
        except BlockingIOError:
            return False
        return bytes(seen) == b"2\n"

    until(is_told)
    _add(log, b"3\n")
    copy.end()
    assert os.read(pipe[0], 100) == b"3\n"


def test_a_copy_that_was_never_started_ends(log: Path, pipe: tuple[int, int]) -> None:
    copy = log_copy.LogCopy(log, pipe[1])
    _add(log, b"1\n")
    copy.end()
    with pytest.raises(BlockingIOError):
        os.read(pipe[0], 100)


def test_a_reader_who_does_not_read_holds_nobody_up(
    log: Path, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_copy, "LAST_SECONDS", 0.2)
    copy = log_copy.LogCopy(log, pipe[1])
    copy.start()
    _add(log, b"x" * PIPE_BYTES)
    started = time.monotonic()
    copy.end()
    assert time.monotonic() - started < 10
    os.set_blocking(pipe[0], True)
    assert sum(len(os.read(pipe[0], 65536)) for _ in range(16)) > 0  # and lets the thread go


def test_a_reader_who_has_gone_ends_the_copy(log: Path, pipe: tuple[int, int]) -> None:
    copy = log_copy.LogCopy(log, pipe[1])
    copy.start()
    os.close(pipe[0])
    _add(log, b"1\n")
    until(lambda: not copy._thread.is_alive())
    copy.end()
