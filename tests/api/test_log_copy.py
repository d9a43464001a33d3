"""The log's lines on standard output: whole, in order, and without anybody waiting for who reads them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
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


def _read(reader: int) -> bytes:
    try:
        return os.read(reader, 100)
    except BlockingIOError:
        return b""


def test_lines_of_this_run_are_passed_on_the_last_ones_too(log: Path, pipe: tuple[int, int]) -> None:
    copy = log_copy.LogCopy(log, pipe[1])
    _add(log, b"1\n")
    copy.start()
    assert _read(pipe[0]) == b"1\n"  # before anything else is said
    _add(log, b"2\n")
    until(lambda: _read(pipe[0]) == b"2\n")
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
    monkeypatch.setattr(log_copy, "WAIT_SECONDS", 0.2)
    copy = log_copy.LogCopy(log, pipe[1])
    _add(log, b"x" * PIPE_BYTES)
    started = time.monotonic()
    copy.start()
    copy.end()
    assert 0.2 <= time.monotonic() - started < 3
    os.set_blocking(pipe[0], True)
    assert sum(len(os.read(pipe[0], 65536)) for _ in range(16)) > 0  # and lets the thread go


def test_a_reader_who_asked_not_to_wait_is_waited_for(log: Path, pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    copy, seen = log_copy.LogCopy(log, pipe[1]), bytearray()
    _add(log, b"x" * PIPE_BYTES)
    copy.start()

    def is_told() -> bool:
        with suppress(BlockingIOError):
            seen.extend(os.read(pipe[0], PIPE_BYTES))
        return len(seen) == PIPE_BYTES

    until(is_told)
    copy.end()


def test_a_log_that_is_moved_away_or_cut_off_is_followed(log: Path, pipe: tuple[int, int]) -> None:
    copy = log_copy.LogCopy(log, pipe[1])
    copy.start()
    log.rename(log.with_suffix(".1"))
    _add(log, b"longer than the one before\n")
    until(lambda: _read(pipe[0]) == b"longer than the one before\n")
    os.truncate(log, 0)
    _add(log, b"new\n")
    until(lambda: _read(pipe[0]) == b"new\n")
    copy.end()


def test_the_log_is_not_copied_to_itself(log: Path) -> None:
    with log.open("ab") as target:
        copy = log_copy.LogCopy(log, target.fileno())
        _add(log, b"1\n")
        copy.start()
        copy.end()
    assert log.read_bytes() == b"of an earlier run\n1\n"


def test_a_reader_who_has_gone_ends_the_copy(log: Path, pipe: tuple[int, int]) -> None:
    copy = log_copy.LogCopy(log, pipe[1])
    copy.start()
    os.close(pipe[0])
    _add(log, b"1\n")
    until(lambda: not copy._thread.is_alive())
    copy.end()
