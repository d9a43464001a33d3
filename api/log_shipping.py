"""The log on its way to Elasticsearch or Logstash over HTTP: in batches, from a thread that nobody ever waits for."""

from __future__ import annotations

import atexit
import logging
import os
import random
import threading
import time
import uuid
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import httpx2

from api import log_targets, metrics
from api.log_targets import Line, Outcome, Target
from nlp import bounded, wire

log = logging.getLogger("icmp.log_shipping")

TOLD_EVERY_SECONDS = 60.0
EXIT_SECONDS = 2.0
MAX_PAUSE_SECONDS = 30.0
ANSWER_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """What waits at most, what travels together, and how long a batch is tried. Sizes in bytes."""

    queue_lines: int = 10_000
    queue_size: int = 8 * 1024 * 1024
    batch_lines: int = 500
    batch_size: int = 512 * 1024
    batch_seconds: float = 1.0
    call_seconds: float = 10.0
    first_pause_seconds: float = 0.5
    give_up_seconds: float = 300.0


class Shipper:
    """Takes lines at once or drops them; sends them from one thread of this process, started by the first line."""

    def __init__(self, target: Target, limits: Limits | None = None) -> None:
        self._target = target
        self._limits = limits or Limits()
        self._lock = threading.Lock()
        self._start_anew()
        _survive_forks(self)

    def _start_anew(self) -> None:
        """An empty queue: what was in it when the process forked is the parent's to send."""
        self._changed = threading.Condition(self._lock)
        self._queue: deque[Line] = deque()
        self._size = self._in_hand = 0
        self._thread: threading.Thread | None = None
        self._closing_at: float | None = None  # on the monotonic clock: when the process can wait no more
        self._dropped, self._told_dropped, self._told_at = 0, 0, float("-inf")
        self._reason = ""

    def before_fork(self) -> None:
        """Nobody may be counting or queueing while the process is copied: the copy would wait for them for ever."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Begin again: the copy has no thread."""
        self._lock = threading.Lock()
        self._start_anew()

    def offer(self, text: str) -> None:
        """Queue a line, or drop and count it when the queue is full. What the sending itself logs is not sent."""
        if threading.current_thread() is self._thread:
            return
        line = Line(text, uuid.uuid4().hex)
        with self._lock:
            is_full = len(self._queue) >= self._limits.queue_lines or self._size + len(text) > self._limits.queue_size
            if is_full or self._closing_at is not None:
                self._drop(1, "the queue is full" if is_full else "the process ends")
                return
            self._queue.append(line)
            self._size += len(text)
            if self._thread is None:
                self._start_thread()
            elif len(self._queue) in (1, self._limits.batch_lines):
                self._changed.notify()

    def close(self, seconds: float = EXIT_SECONDS) -> None:
        """Send what waits, for so long at most; the rest is dropped."""
        with self._lock:
            thread = self._thread
            if thread is None or self._closing_at is not None:
                return
            self._closing_at = time.monotonic() + seconds
            self._changed.notify()
        thread.join(seconds)
        atexit.unregister(self.close)
        with self._lock:
            left = len(self._queue) + (self._in_hand if thread.is_alive() else 0)
            self._queue.clear()
            self._in_hand = 0
            if left:
                self._drop(left, "the process ends")
        self._tell_of_drops()

    def _start_thread(self) -> None:
        self._thread = threading.Thread(target=self._run, name="log-shipping", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def _run(self) -> None:
        with httpx2.Client(transport=wire.Transport(1)) as client:
            while batch := self._next_batch():
                self._deliver(client, batch)
                self._tell_of_drops()

    def _next_batch(self) -> tuple[Line, ...]:
        """The oldest lines, once there are enough or they have waited long enough; none when all is over."""
        limits = self._limits
        with self._lock:
            self._changed.wait_for(lambda: self._queue or self._closing_at is not None)
            self._changed.wait_for(
                lambda: len(self._queue) >= limits.batch_lines or self._closing_at is not None, limits.batch_seconds
            )
            return self._taken()

    def _taken(self) -> tuple[Line, ...]:
        """As many of the oldest lines as travel together; one at least."""
        batch: list[Line] = []
        size = 0
        while self._queue and len(batch) < self._limits.batch_lines:
            size += len(self._queue[0].text)
            if batch and size > self._limits.batch_size:
                break
            batch.append(self._queue.popleft())
            self._size -= len(batch[-1].text)
        self._in_hand = len(batch)
        return tuple(batch)

    def _deliver(self, client: httpx2.Client, lines: tuple[Line, ...]) -> None:
        """Send until all are taken or refused for good, or it has been tried for too long."""
        give_up_at = time.monotonic() + self._limits.give_up_seconds
        pause = self._limits.first_pause_seconds
        while lines:
            outcome = self._send(client, lines)
            if outcome.refused:
                self._count_drop(outcome.refused, outcome.reason)
            lines = outcome.again
            with self._lock:
                self._in_hand = min(self._in_hand, len(lines))
            if lines and not self._rest(max(pause * random.uniform(0.5, 1), outcome.rest_seconds), give_up_at):
                self._count_drop(len(lines), outcome.reason)
                return
            pause = min(pause * 2, MAX_PAUSE_SECONDS)

    def _rest(self, seconds: float, give_up_at: float) -> bool:
        """Pause before the next try; False when there can be none. The end of the process shortens every pause."""
        with self._lock:
            if self._closing_at is None:
                if time.monotonic() + seconds >= give_up_at:
                    return False
                self._changed.wait_for(lambda: self._closing_at is not None, seconds)
                return True
            left = self._closing_at - time.monotonic()
            self._changed.wait(max(0.0, min(self._limits.first_pause_seconds, left)))
            return left > 0

    def _send(self, client: httpx2.Client, lines: tuple[Line, ...]) -> Outcome:
        now = time.monotonic()
        until = now + self._limits.call_seconds
        budget = bounded.Budget(min(until, self._closing_at or until), ANSWER_BYTES)
        try:
            with bounded.within(budget):
                response = client.send(log_targets.request(client, self._target, lines, budget.remaining()))
        except httpx2.HTTPError as error:
            return Outcome(again=lines, reason=type(error).__name__)
        return log_targets.judged(self._target, response, lines)

    def _count_drop(self, count: int, reason: str) -> None:
        """Lines of the batch in hand are lost, unless `close` counted them already and left."""
        with self._lock:
            count = min(count, self._in_hand)
            self._in_hand -= count
            if count:
                self._drop(count, reason)

    def _drop(self, count: int, reason: str) -> None:
        self._dropped += count
        self._reason = reason
        metrics.LOGS_DROPPED.inc(count)

    def _tell_of_drops(self) -> None:
        """Once in a while, and at the end."""
        with self._lock:
            new, reason = self._dropped - self._told_dropped, self._reason
            is_time = self._closing_at is not None or time.monotonic() - self._told_at >= TOLD_EVERY_SECONDS
            if not new or not is_time:
                return
            self._told_dropped, self._told_at = self._dropped, time.monotonic()
        log.warning("log lines were not shipped", extra={"dropped": new, "reason": reason})


def _survive_forks(shipper: Shipper) -> None:
    known = weakref.ref(shipper)

    def told(hook: Callable[[Shipper], None]) -> Callable[[], None]:
        def call() -> None:
            alive = known()
            if alive is not None:
                hook(alive)

        return call

    os.register_at_fork(
        before=told(Shipper.before_fork),
        after_in_parent=told(Shipper.after_fork_in_parent),
        after_in_child=told(Shipper.after_fork_in_child),
    )
