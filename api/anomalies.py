"""Anomalies: bursts of refusals and traffic far above a business's usual are told as security events, never acted on.

Each process counts for itself, in bounded memory: thresholds are per process, and a restart forgets what was usual.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from flask import Flask, Response, g

from api import metrics, proxies

log = logging.getLogger("icmp.security")

# Refusals a minute in one process, from one address or with one key, that make a burst.
BURSTS = {401: ("unauthorized_burst", 10), 403: ("forbidden_burst", 10), 429: ("rate_limited_burst", 30)}
SURGE = "traffic_surge"
SURGE_FACTOR = 10
SURGE_PER_MINUTE = 100
# The mean forgets half of its past in an hour, and says nothing before it has seen ten minutes.
_DECAY = 0.5 ** (1 / 60)
_WARM_UP_MINUTES = 10
_SUBJECTS = 10_000
Counted = TypeVar("Counted")


@dataclass
class Refusals:
    """What one subject was refused in one minute, and in the minute before."""

    minute: int = -1
    count: int = 0
    minute_before: int = 0

    def add(self, minute: int) -> int:
        """One more; how many it makes in this minute."""
        if minute != self.minute:
            self.minute_before = self.count if minute == self.minute + 1 else 0
            self.minute, self.count = minute, 0
        self.count += 1
        return self.count


@dataclass
class Traffic:
    """Requests of one business: the present minute's, and the decayed mean of the minutes before."""

    minute: int = -1
    count: int = 0
    total: float = 0.0  # both decayed alike, so that a short past is no small one
    weight: float = 0.0
    minutes: int = 0

    def add(self, minute: int) -> bool:
        """One more; whether it is the one that makes a surge, at most once a minute."""
        if minute != self.minute:
            self._close(minute)
        self.count += 1
        return self.minutes >= _WARM_UP_MINUTES and self.count == self.surge_at

    @property
    def usual(self) -> float:
        """Requests a minute."""
        return self.total / self.weight if self.weight else 0.0

    @property
    def surge_at(self) -> int:
        """Requests in a minute that make a surge."""
        return max(SURGE_PER_MINUTE, round(SURGE_FACTOR * self.usual))

    def _close(self, minute: int) -> None:
        """Take the last minute into the mean, and the silent ones since."""
        if self.minute >= 0:
            passed = minute - self.minute
            silence = _DECAY ** (passed - 1)
            self.total = (self.total * _DECAY + self.count) * silence
            self.weight = (self.weight * _DECAY + 1) * silence + (1 - silence) / (1 - _DECAY)
            self.minutes += passed
        self.minute, self.count = minute, 0


class Recent(Generic[Counted]):
    """The counts of the subjects seen last, at most so many."""

    def __init__(self, make: Callable[[], Counted], size: int = _SUBJECTS) -> None:
        self._make = make
        self._size = size
        self._kept: OrderedDict[Any, Counted] = OrderedDict()

    def of(self, subject: Any) -> Counted:
        """The subject's counts; they begin when it is new or was forgotten."""
        counted = self._kept.get(subject)
        if counted is None:
            counted = self._kept[subject] = self._make()
            if len(self._kept) > self._size:
                self._kept.popitem(last=False)
        self._kept.move_to_end(subject)
        return counted


class Watch:
    """What this process has seen."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._refusals = Recent(Refusals)
        self._traffic = Recent(Traffic)

    def refused(self, status: int, subject: str, **shown: str | None) -> None:
        """A request was refused with a status of BURSTS. `subject` is whom to count for, `shown` what the log may say
        of it."""
        kind, threshold = BURSTS[status]
        with self._lock:
            refusals = self._refusals.of((status, subject))
            is_burst = refusals.add(self._minute()) == threshold
            counts = {"count": refusals.count, "minute_before": refusals.minute_before}
        if is_burst:
            _tell(kind, shown | counts)

    def asked(self, business_id: str) -> None:
        """A request of a business was answered, however."""
        with self._lock:
            traffic = self._traffic.of(business_id)
            is_surge = traffic.add(self._minute())
            counts = {"count": traffic.count, "usual_per_minute": round(traffic.usual, 1)}
        if is_surge:
            _tell(SURGE, {"business_id": business_id} | counts)

    def _minute(self) -> int:
        return int(self._clock() // 60)


def register(app: Flask) -> None:
    """Look at every response."""
    watch = Watch()
    for kind in (*(kind for kind, _ in BURSTS.values()), SURGE, metrics.DECRYPT_FAILED):
        metrics.SECURITY_EVENTS.labels(kind=kind)  # shown as 0 from the beginning

    @app.after_request
    def look(response: Response) -> Response:
        if response.status_code in BURSTS:
            _look_at_refusal(watch, response.status_code)
        if g.get("business_id") and "caller" in g:
            watch.asked(g.business_id)
        return response


def _look_at_refusal(watch: Watch, status: int) -> None:
    # Counted by the address, told by a network that no single person is known by.
    watch.refused(status, proxies.client_network(), address=proxies.client_network(24, 48))
    caller = g.get("caller")
    if caller is not None and (caller.key_id or caller.user_id):
        watch.refused(
            status,
            caller.key_id or caller.user_id,
            key_id=caller.key_id,
            user_id=caller.user_id,
            business_id=caller.business_id,
        )


def _tell(kind: str, fields: dict[str, Any]) -> None:
    metrics.SECURITY_EVENTS.labels(kind=kind).inc()
    log.warning(
        "security event", extra={"kind": kind} | {name: value for name, value in fields.items() if value is not None}
    )
