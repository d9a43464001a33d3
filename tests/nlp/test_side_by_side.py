"""The threads for work beside the caller's own."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future

from nlp.side_by_side import Threads


def test_work_is_done_in_another_thread() -> None:
    future = Threads(1).start(threading.get_ident)
    assert future is not None
    assert future.result(5) != threading.get_ident()


def test_no_work_is_taken_while_every_thread_is_busy() -> None:
    threads, release = Threads(2), threading.Event()
    started = [threads.start(lambda: release.wait(5)) for _ in range(3)]
    release.set()
    assert [future is not None for future in started] == [True, True, False]


def test_thread_is_free_again_after_its_work() -> None:
    single = Threads(1)
    for _ in range(3):
        assert _started(single).result(5) == "done"


def _started(threads: Threads) -> Future[str]:
    for _ in range(5000):
        future = threads.start(lambda: "done")
        if future is not None:
            return future
        time.sleep(0.001)
    raise AssertionError("no thread was ever free")


def test_closed_threads_take_no_work() -> None:
    threads = Threads(1)
    threads.close()
    assert threads.start(lambda: None) is None
