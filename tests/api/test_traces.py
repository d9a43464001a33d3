"""Traces as a collector gets them: the caller's trace goes on, every model call is in it, and nobody's words are."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from api import openapi
from api.open_telemetry import OpenTelemetry
from api.settings import Settings
from nlp import llm
from nlp.errors import ModelUnavailable
from tests.api import gunicorn_server, shop
from tests.api.shop import Thinker
from tests.conftest import ENVIRONMENT, MASTER_KEY, Client
from tests.nlp import model_server, web_server
from tests.waiting import until

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
WORDS = "zanzibar-words"


@dataclass(frozen=True)
class Told:
    """One span as it arrived."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    is_error: bool
    attributes: dict[str, Any]


@pytest.fixture(scope="module")
def collector() -> Iterator[web_server.Server]:
    """Where spans arrive."""
    with web_server.running() as server:
        server.tells(b"")
        yield server


@pytest.fixture(scope="module")
def web() -> Iterator[web_server.Server]:
    """A tenant's server, out of order."""
    with web_server.running() as server:
        server.tells({"error": WORDS}, 500)
        yield server


@pytest.fixture(scope="module")
def thinker(
    settings: Settings, serve: Callable[[Flask], int], collector: web_server.Server, web: web_server.Server
) -> Iterator[Thinker]:
    """An app that tells the collector, with a scripted model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        endpoint = f"http://{collector.host}"
        hosts = frozenset({web.host})
        with shop.thinking(
            settings, serve, otel_exporter_otlp_endpoint=endpoint, api_call_allowed_hosts=hosts, log_level="INFO"
        ) as made:
            yield made


def _plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_plain(item) for item in value.array_value.values] if kind == "array_value" else getattr(value, kind)


def _told(span: Span) -> Told:
    attributes = {attribute.key: _plain(attribute.value) for attribute in span.attributes}
    assert not span.events, "events would carry exception texts"
    ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
    return Told(span.name, *ids, span.kind, span.status.code == Status.STATUS_CODE_ERROR, attributes)


def _exports(collector: web_server.Server) -> list[ExportTraceServiceRequest]:
    sent = [seen for seen in collector.seen if seen.path == "/v1/traces"]
    assert {seen.headers["content-type"] for seen in sent} <= {"application/x-protobuf"}
    return [ExportTraceServiceRequest.FromString(seen.body) for seen in sent]


def _spans(collector: web_server.Server, trace_id: str) -> list[Told]:
    return [
        told
        for export in _exports(collector)
        for resource in export.resource_spans
        for scope in resource.scope_spans
        for told in map(_told, scope.spans)
        if told.trace_id == trace_id
    ]


def _trace(collector: web_server.Server, trace_id: str) -> dict[str, list[Told]]:
    """The spans of a trace by name, once that of the request is there, which ends last."""
    until(lambda: any(told.parent_id == PARENT for told in _spans(collector, trace_id)))
    by_name: dict[str, list[Told]] = {}
    for told in _spans(collector, trace_id):
        by_name.setdefault(told.name, []).append(told)
    return by_name


def _new_trace() -> tuple[str, dict[str, str]]:
    trace_id = uuid.uuid4().hex
    return trace_id, {"traceparent": f"00-{trace_id}-{PARENT}-01"}


def _write(client: Client, trace: dict[str, str], message: str) -> Any:
    return client.post("/api/v1/messages", {"user_id": str(uuid.uuid4()), "message": message}, **trace)


def _root(span: Told, spans: dict[str, list[Told]]) -> str:
    """The span of the trace that this one lies in, directly or not."""
    known = {told.span_id: told for tolds in spans.values() for told in tolds}
    while span.parent_id in known:
        span = known[span.parent_id]
    return span.span_id


def _only(spans: list[Told]) -> Told:
    [span] = spans
    return span


def test_a_request_is_a_span_of_the_callers_trace_and_its_line_names_the_trace(
    thinker: Thinker, collector: web_server.Server, caplog: pytest.LogCaptureFixture
) -> None:
    path = f"/api/v1/stages/{uuid.uuid4()}"
    answer = thinker.shop().get(f"{path}?business_id={uuid.UUID(int=1)}", traceparent=TRACEPARENT, X_Request_ID="r-1")
    assert answer.status == 403
    span = _only(_trace(collector, TRACE)["GET /api/v1/stages/<stage_id>"])
    assert (span.parent_id, span.kind, span.is_error) == (PARENT, Span.SPAN_KIND_SERVER, False)
    assert span.attributes["http.request.method"] == "GET"
    assert span.attributes["http.route"] == "/api/v1/stages/<stage_id>"
    assert span.attributes["http.response.status_code"] == 403
    assert (span.attributes["icmp.request_id"], span.attributes["icmp.error_code"]) == ("r-1", "FORBIDDEN")
    assert [vars(line)["trace_id"] for line in caplog.records if vars(line).get("request_id") == "r-1"] == [TRACE]
    [resource] = _exports(collector)[0].resource_spans
    named = {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes}
    assert (named["service.name"], named["service.version"]) == ("icmp", openapi.VERSION)


@pytest.mark.parametrize("sent", ["", "00-0-0-01", f"00-{'0' * 32}-{PARENT}-01", f"ff-{TRACE}-{PARENT}-01", WORDS])
def test_a_malformed_traceparent_begins_a_trace_of_its_own(
    thinker: Thinker, collector: web_server.Server, sent: str
) -> None:
    before = len(collector.seen)
    assert Client(thinker.master.port).get("/", traceparent=sent).status == 200
    until(lambda: len(collector.seen) > before)
    assert WORDS not in str(collector.seen[before:])


def test_every_model_call_and_look_up_is_under_its_request(
    thinker: Thinker, collector: web_server.Server, web: web_server.Server
) -> None:
    config = {"url": f"http://{web.host}/orders/{{{{ data.order_number }}}}"}
    asking = shop.ORDER_STATUS | {"data_retrieval": {"method": "api_call", "config": config}}
    client = thinker.shop(asking, shop.SMALL_TALK)
    thinker.script(
        stage_selection=shop.picks("order_status"),
        data_extraction=shop.finds(order_number="4411"),
        response_generation=[shop.says(""), shop.says(WORDS)],
    )
    trace_id, trace = _new_trace()
    assert _write(client, trace, f"Where is order 4411? {WORDS}").body["response"] == WORDS
    spans = _trace(collector, trace_id)
    request = _only(spans["POST /api/v1/messages"])
    calls = spans["chat m-1"]
    steps = sorted(str(call.attributes["icmp.step"]) for call in calls)
    assert steps == ["data_extraction", "response_generation", "response_generation", "stage_selection"]
    assert {_root(call, spans) for call in calls} == {request.span_id}, "also of those that ran beside it"
    assert {call.kind for call in calls} == {Span.SPAN_KIND_CLIENT}
    chosen = next(call for call in calls if call.attributes["icmp.step"] == "stage_selection")
    assert {name: value for name, value in chosen.attributes.items() if name.startswith("gen_ai.")} == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "m-1",
        "gen_ai.response.model": "m-1",
        "gen_ai.output.type": "json",
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.response.finish_reasons": ["stop"],
    }
    look_up = _only(spans["data_retrieval"])
    assert (_root(look_up, spans), look_up.attributes["icmp.look_up"]) == (request.span_id, "api_call")
    assert (look_up.is_error, look_up.attributes["error.type"]) == (True, "bad_status")
    assert request.attributes["icmp.business_id"] == client.business_id


def test_a_model_that_fails_is_told_by_kind_and_never_by_its_words(
    thinker: Thinker, collector: web_server.Server
) -> None:
    client = thinker.shop(shop.SMALL_TALK)
    thinker.script(response_generation=model_server.fails(401, f"wrong key {WORDS}"))
    trace_id, trace = _new_trace()
    assert _write(client, trace, WORDS).status == 503
    spans = _trace(collector, trace_id)
    call, request = _only(spans["chat m-1"]), _only(spans["POST /api/v1/messages"])
    assert (call.is_error, call.attributes["error.type"]) == (True, "unauthorized")
    assert (request.is_error, request.attributes["error.type"]) == (True, "LLM_UNAVAILABLE")
    sent = b"".join(seen.body for seen in collector.seen if seen.path == "/v1/traces")
    assert WORDS.encode() not in sent


def test_a_turn_is_a_span_around_its_calls_also_without_a_request(
    collector: web_server.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    before = len(collector.seen)
    traces = OpenTelemetry(f"http://{collector.host}/", version="1", provider="openai")
    answers = iter([llm.Answer("yes", model="m-2")])

    class Once:
        def ask(self, _request: llm.Request) -> llm.Answer:
            for answer in answers:
                return answer
            raise ModelUnavailable("timeout", attempts=3)

    model = traces.model(Once())
    with traces.turn(turn_id="t-1", conversation_id=None):
        assert model.ask(model_server.REQUEST).text == "yes"
    with pytest.raises(ModelUnavailable), traces.turn(turn_id="t-2"):
        model.ask(model_server.REQUEST)
    until(lambda: str(collector.seen[before:]).count("t-2") > 0)
    spans = [
        told for export in _exports(collector) for told in map(_told, export.resource_spans[0].scope_spans[0].spans)
    ]
    first, second = [span for span in spans if span.attributes.get("icmp.turn_id") in {"t-1", "t-2"}]
    assert (first.attributes, first.is_error) == ({"icmp.turn_id": "t-1"}, False)
    assert (second.attributes, second.is_error) == ({"icmp.turn_id": "t-2", "error.type": "timeout"}, True)
    inside = {span.parent_id: span for span in spans if span.parent_id in (first.span_id, second.span_id)}
    assert inside[first.span_id].attributes["gen_ai.response.model"] == "m-2"
    assert inside[second.span_id].attributes["error.type"] == "timeout"


@pytest.mark.parametrize("behaviour", [model_server.hangs, model_server.resets, model_server.fails(500)])
def test_a_collector_that_is_ill_holds_nobody_up(
    settings: Settings, serve: Callable[[Flask], int], monkeypatch: pytest.MonkeyPatch, behaviour: Any
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    with web_server.running() as ill:
        ill.plays(behaviour)
        with shop.thinking(settings, serve, otel_exporter_otlp_endpoint=f"http://{ill.host}") as thinker:
            anybody = Client(thinker.master.port)
            assert anybody.get("/").status == 200
            until(lambda: len(ill.seen) >= 1)
            assert [anybody.get("/").status for _ in range(50)] == [200] * 50, "while the first export hangs"


def test_gunicorns_workers_tell_their_spans_and_send_the_last_ones_when_they_end(
    database_url: str, tmp_path: Path
) -> None:
    with web_server.running() as collector:
        collector.tells(b"")
        endpoint = f"http://{collector.host}"
        with gunicorn_server.running(
            tmp_path, database_url, WEB_CONCURRENCY="2", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint
        ) as served:
            for _ in range(20):
                assert Client(served.port, MASTER_KEY).get("/readyz", traceparent=TRACEPARENT).status == 200
        assert len(_spans(collector, TRACE)) == 20


def test_without_a_collector_nothing_of_it_is_loaded(database_url: str) -> None:
    script = (
        "import sys, app; app.create_app(); sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    nothing = {"OTEL_EXPORTER_OTLP_ENDPOINT": "", "OPENAI_API_KEY": "", "OPENAI_BASE_URL": ""}
    started = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        env={"PATH": "/usr/bin:/bin", **ENVIRONMENT, **nothing, "DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (started.returncode, started.stderr) == (0, "")
