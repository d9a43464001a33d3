"""The circuit breaker: a model whose server is ill is left alone for a while, so that nobody waits for it in vain."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

WINDOW_SECONDS = 30
MIN_CALLS = 10
ILL_SHARE = 0.5
PROBE_SECONDS = 5.0
PROBES = 2  # a turn asks two questions at once
MAX_MODELS = 1000

# well and ill count; a server that refuses is "alive", which only matters while it is being probed.
Health = Literal["well", "ill", "alive", "unknown"]


class BreakerOpen(Exception):
    """Calls to this model are not tried now; `retry_after_s` until the next one may be."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__("the breaker is open")
        self.retry_after_s = retry_after_s


@dataclass
class _State:
    """A model's calls by the second in which they ended, (all, ill). While the breaker is open `probe_at` is when the
    next ones are let through; so many of the last ones may still be made."""

    seconds: dict[int, tuple[int, int]] = field(default_factory=dict)
    probe_at: float | None = None
    probes_left: int = 0


@dataclass(frozen=True)
class Ticket:
    """Leave to call a model once."""

    model: str
    is_probe: bool


class Breaker:
    """One per server, safe to share between threads. Opens when at least half of at least ten calls to a model within
    half a minute failed; then two calls every five seconds are let through, and the first that goes well closes it."""

    def __init__(
        self, on_change: Callable[[str, bool], None] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`on_change` is told the model and whether its breaker is open now."""
        self._on_change = on_change or (lambda _model, _is_open: None)
        self._clock = clock
        self._lock = threading.Lock()
        self._states: OrderedDict[str, _State] = OrderedDict()

    def enter(self, model: str) -> Ticket:
        """Leave to call; raises BreakerOpen at once when there is none. Every ticket goes back through `leave`."""
        with self._lock:
            state = self._states.get(model)
            if state is None or state.probe_at is None:
                return Ticket(model, is_probe=False)
            now = self._clock()
            if now >= state.probe_at:
                # Probes that never come back only delay the next ones.
                state.probe_at, state.probes_left = now + PROBE_SECONDS, PROBES
            if not state.probes_left:
                raise BreakerOpen(state.probe_at - now)
            state.probes_left -= 1
            return Ticket(model, is_probe=True)

    def leave(self, ticket: Ticket, health: Health) -> None:
        """How the call went."""
        with self._lock:
            changed = self._probed(ticket, health) if ticket.is_probe else self._counted(ticket.model, health)
        if changed is not None:
            self._on_change(ticket.model, changed)

    def _probed(self, ticket: Ticket, health: Health) -> bool | None:
        # A model that was closed to nobody any more may have made room for another one meanwhile.
        state = self._states.get(ticket.model)
        if state is None or state.probe_at is None or health not in ("well", "alive"):
            return None
        state.probe_at = None
        state.seconds.clear()
        return False

    def _counted(self, model: str, health: Health) -> bool | None:
        state = self._known(model) if health in ("well", "ill") else None
        if state is None or state.probe_at is not None:
            return None
        now = self._clock()
        second, oldest = int(now), now - WINDOW_SECONDS
        state.seconds = {at: calls for at, calls in state.seconds.items() if at >= oldest}
        every, ill = state.seconds.get(second, (0, 0))
        state.seconds[second] = (every + 1, ill + (health == "ill"))
        calls, failures = (sum(counts) for counts in zip(*state.seconds.values(), strict=True))
        if calls < MIN_CALLS or failures < calls * ILL_SHARE:
            return None
        state.probe_at, state.probes_left = now + PROBE_SECONDS, 0
        return True

    def _known(self, model: str) -> _State | None:
        """The model's state; None when there is no room, for tenants name models as they like."""
        if model not in self._states and len(self._states) >= MAX_MODELS:
            idle = next((name for name, state in self._states.items() if state.probe_at is None), None)
            if idle is None:
                return None
            del self._states[idle]
        state = self._states.setdefault(model, _State())
        self._states.move_to_end(model)
        return state
