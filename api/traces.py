"""What the app asks of traces: a span for each request, turn, model call and look-up; never what anybody said."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from werkzeug.datastructures import Headers

from nlp import llm

Ask = Callable[[llm.Request], llm.Answer]


class Model(Protocol):
    """Who answers prompts; nlp.llm has the real one."""

    @property
    def ask(self) -> Ask:
        """The model's answer, whatever it says; raises ModelUnavailable."""


class RequestSpan(Protocol):
    """The span of a request under way."""

    trace_id: str

    def leave(self) -> None:
        """The request's thread turns to something else."""

    def end(self, status: int, ids: Mapping[str, Any]) -> None:
        """The last byte of the answer has left; `ids` are those of its log line."""


class Traces(Protocol):
    """What the rest of the app asks of traces, whether they are on or off."""

    def begin(self, method: str, route: str, headers: Headers) -> RequestSpan | None:
        """A request has come; a `traceparent` header makes its span part of the caller's trace."""

    def turn(self, **ids: str | None) -> AbstractContextManager[None]:
        """A turn is thought through inside the block, by this thread and those it starts; ids such as turn_id."""

    def look_up(self, kind: str) -> AbstractContextManager[None]:
        """A stage's look-up happens inside the block."""

    def model(self, model: Model) -> Model:
        """The same model, with a span for each question."""


class Off:
    """No traces: costs nothing."""

    def begin(self, method: str, route: str, headers: Headers) -> None:
        """Nothing."""

    def turn(self, **ids: str | None) -> AbstractContextManager[None]:
        """Nothing."""
        del ids  # nobody wants to know
        return nullcontext()

    def look_up(self, kind: str) -> AbstractContextManager[None]:
        """Nothing."""
        del kind  # as above
        return nullcontext()

    def model(self, model: Model) -> Model:
        """The same."""
        return model


def wanted(endpoint: str | None, *, version: str, provider: str) -> Traces:
    """Traces to an OpenTelemetry collector at `endpoint`, or none without one. `provider` is who serves the models."""
    if endpoint is None:
        return Off()
    from api import open_telemetry  # its packages take memory and time, which nobody without a collector should pay

    return open_telemetry.OpenTelemetry(endpoint, version=version, provider=provider)
