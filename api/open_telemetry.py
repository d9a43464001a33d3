"""Traces to an OpenTelemetry collector, over OTLP and HTTP; loaded only when one is named."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from opentelemetry import context, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from werkzeug.datastructures import Headers

from api.traces import Ask, Model
from nlp import llm
from nlp.errors import LookUpFailed, ModelUnavailable

EXIT_SECONDS = 2.0
EXPORT_SECONDS = 5.0
_ERROR = "error.type"


class OpenTelemetry:
    """Spans in batches, from a thread of this process; a collector that is slow or down only loses them. Does what
    `traces.Traces` says."""

    def __init__(self, endpoint: str, *, version: str, provider: str) -> None:
        """`endpoint` is the collector's, without /v1/traces."""
        self._endpoint = f"{endpoint.rstrip('/')}/v1/traces"
        self._version, self._provider = version, provider
        self._start_anew()
        os.register_at_fork(after_in_child=self._start_anew)

    def _start_anew(self) -> None:
        self._lock = threading.Lock()
        self._made: Tracer | None = None

    @property
    def _tracer(self) -> Tracer:
        """Made by the first span of a process: the thread behind it would not survive a fork."""
        with self._lock:
            if self._made is None:
                self._made = _tracer(self._endpoint, self._version)
            return self._made

    def begin(self, method: str, route: str, headers: Headers) -> RequestSpan:
        """As in Traces."""
        return RequestSpan(self._tracer, method, route, headers)

    @contextmanager
    def turn(self, **ids: str | None) -> Iterator[None]:
        """As in Traces."""
        with self._span("turn", {f"icmp.{name}": value for name, value in ids.items() if value}):
            yield

    @contextmanager
    def look_up(self, kind: str) -> Iterator[None]:
        """As in Traces."""
        with self._span("data_retrieval", {"gen_ai.operation.name": "retrieval", "icmp.look_up": kind}):
            yield

    def model(self, model: Model) -> Model:
        """As in Traces; the attributes' names are those of OpenTelemetry's conventions for generative AI."""

        def asked(request: llm.Request) -> llm.Answer:
            described = {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": self._provider,
                "gen_ai.request.model": request.model,
                "gen_ai.output.type": "text" if request.schema is None else "json",
                "icmp.step": request.kind,
            }
            with self._span(f"chat {request.model}", described, SpanKind.CLIENT) as span:
                answer = model.ask(request)
                span.set_attributes(_answered(answer))
                return answer

        return _Traced(asked)

    @contextmanager
    def _span(
        self, name: str, attributes: Mapping[str, Any], kind: SpanKind = SpanKind.INTERNAL
    ) -> Iterator[trace.Span]:
        # An exception's text may quote what somebody said: its kind is told, and nothing else.
        with self._tracer.start_as_current_span(
            name, kind=kind, attributes=dict(attributes), record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield span
            except Exception as error:
                _fail(
                    span, error.reason if isinstance(error, ModelUnavailable | LookUpFailed) else type(error).__name__
                )
                raise


@dataclass(frozen=True)
class _Traced:
    ask: Ask


class RequestSpan:
    """The span of a request, current in the thread that answers it."""

    def __init__(self, tracer: Tracer, method: str, route: str, headers: Headers) -> None:
        sent = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        parent = TraceContextTextMapPropagator().extract(sent, context.Context())
        described = {"http.request.method": method, "http.route": route}
        self._span = tracer.start_span(f"{method} {route}", parent, SpanKind.SERVER, described)
        self.trace_id = trace.format_trace_id(self._span.get_span_context().trace_id)
        self._token = context.attach(trace.set_span_in_context(self._span, parent))

    def leave(self) -> None:
        """As in traces.RequestSpan."""
        context.detach(self._token)

    def end(self, status: int, ids: Mapping[str, Any]) -> None:
        """As in traces.RequestSpan."""
        told = {f"icmp.{name}": value for name, value in ids.items() if value and name != "trace_id"}
        self._span.set_attributes({"http.response.status_code": status, **told})
        if status >= 500:
            _fail(self._span, str(ids.get("error_code") or status))
        self._span.end()


def _fail(span: trace.Span, kind: str) -> None:
    span.set_attribute(_ERROR, kind)
    span.set_status(StatusCode.ERROR)


def _answered(answer: llm.Answer) -> dict[str, Any]:
    told: dict[str, Any] = {
        "gen_ai.usage.input_tokens": answer.prompt_tokens,
        "gen_ai.usage.output_tokens": answer.completion_tokens,
        "icmp.attempts": answer.attempts,
    }
    if answer.model:
        told["gen_ai.response.model"] = answer.model
    if answer.finish_reason:
        told["gen_ai.response.finish_reasons"] = [answer.finish_reason]
    return told


def _tracer(endpoint: str, version: str) -> Tracer:
    """What else there is to set (headers, sampling, sizes) the library reads from its own variables, OTEL_…"""
    named = Resource.create({"service.name": "icmp", "service.version": version})
    provider = TracerProvider(resource=named, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint, timeout=EXPORT_SECONDS)))
    atexit.register(_shut_down, provider.shutdown)
    return provider.get_tracer("icmp", version)


def _shut_down(shut_down: Callable[[], None]) -> None:
    """Send what waits; the library would wait half a minute for a collector that does not answer."""
    ending = threading.Thread(target=shut_down, name="traces-end", daemon=True)
    ending.start()
    ending.join(EXIT_SECONDS)
