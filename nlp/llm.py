"""The only way to the model: one bounded question through the OpenAI client, retried a little within its deadline."""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2
import openai
from openai._models import FinalRequestOptions

from json_text import encoded
from nlp import bounded, llm_replies, llm_stream, wire
from nlp.breaker import Breaker, BreakerOpen, Health
from nlp.errors import ModelUnavailable
from nlp.llm_stream import Listener

Message = Mapping[str, str]

OPENAI_URL = "https://api.openai.com/v1"
MAX_RETRIES = 2
MAX_ADAPTATIONS = 8
MAX_LEARNT = 10_000
BACKOFF_SECONDS = 0.5
# How long the end of a stream's body may take after its last event; then the connection is not used again.
LAST_BYTES_SECONDS = 0.05

_OTHER_NAMES = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
_STREAMING: Mapping[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}

# At INFO and below these log every call's address, which may hold a password, and the server's headers.
for _name in ("openai", "httpx2", "httpcore2"):
    logging.getLogger(_name).setLevel(logging.WARNING)


@dataclass(frozen=True)
class Request:
    """One question to a model. `schema` is the JSON Schema of the answer, None for free text; `deadline` is on the
    monotonic clock; `settings` holds only what is set; `on_text` is called with each piece of the answer's text."""

    kind: str
    messages: Sequence[Message]
    schema: Mapping[str, Any] | None
    model: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    deadline: float = float("inf")
    on_text: Callable[[str], None] | None = None


@dataclass(frozen=True)
class Answer:
    """What came back: the message's content or refusal as sent, and what it took."""

    text: str | None
    refusal: str | None = None
    finish_reason: str | None = "stop"
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    attempts: int = 1
    latency_ms: float = 0.0

    @property
    def raw(self) -> str:
        """The model's own words, whichever kind they are."""
        return self.text or self.refusal or ""


class Model:
    """A server that speaks Chat Completions. Safe to share between threads; opens no connection before it is asked."""

    def __init__(
        self,
        api_key: str | None,
        base_url: str | None = None,
        *,
        http_transport: httpx2.BaseTransport | None = None,
        call_timeout_s: float = 20.0,
        byte_cap: int = 256 * 1024,
        connections: int = 100,
        sleep: Callable[[float], None] = time.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
        on_breaker: Callable[[str, bool], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`call_timeout_s` covers one try; `byte_cap` what the server may send for it, several times as much when it
        streams. `on_breaker` is told when calls to a model are not tried any more (True) and
        when they are again; `clock` is the breaker's."""
        self._call_timeout_s = call_timeout_s
        self._byte_cap = byte_cap
        self._sleep, self._uniform = sleep, uniform
        self._breaker = Breaker(on_breaker, clock)
        # OpenAI's newer models refuse max_tokens; other servers know nothing else.
        renames = {"max_tokens": "max_completion_tokens"} if (base_url or OPENAI_URL).startswith(OPENAI_URL) else {}
        self._renames: Mapping[str, str] = renames
        # By model, setting and value: what one tenant's value taught must not change another tenant's calls.
        self._learnt: dict[tuple[str, str, str], str | None] = {}
        self._transport = http_transport or wire.Transport(connections)
        self._client = openai.OpenAI(
            api_key=api_key or "unset",
            base_url=base_url or OPENAI_URL,
            max_retries=0,
            # Compressed bodies could be small on the wire and huge in memory.
            default_headers={"Accept-Encoding": "identity"},
            http_client=httpx2.Client(transport=self._transport),
        )
        options = FinalRequestOptions.construct(method="post", url="/chat/completions", json_data={})
        self._ready = self._client._build_request(options)
        del self._ready.headers["Content-Length"]  # that of the empty body
        self._headers = _authorized(self._ready).headers

    def ask(self, request: Request) -> Answer:
        """The model's answer, whatever it says; raises ModelUnavailable. The model's breaker hears how it went in the
        end: what went well at the second try went well."""
        try:
            ticket = self._breaker.enter(request.model)
        except BreakerOpen as error:
            raise ModelUnavailable("breaker_open", retry_after_s=error.retry_after_s, attempts=0) from None
        began = time.monotonic()
        health: Health = "unknown"
        try:
            answer = self._asked(request, began, most_retries=0 if ticket.is_probe else MAX_RETRIES)
            health = "well"
        except ModelUnavailable as problem:
            health = llm_replies.health(problem.reason)
            # Who had hardly any time left says nothing about the server.
            if health == "ill" and request.deadline - began < self._call_timeout_s / 2:
                health = "unknown" if time.monotonic() >= request.deadline else health
            raise
        finally:
            self._breaker.leave(ticket, health)
        return answer

    def _asked(self, request: Request, started: float, most_retries: int) -> Answer:
        listener = None if request.on_text is None else Listener(request.on_text)
        attempts = retries = 0
        while True:
            attempts += 1
            try:
                fields = self._once(request, listener)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                if attempts > MAX_ADAPTATIONS or not self._adapt(request, error, listener):
                    raise _unavailable(error, attempts) from None
            except (openai.OpenAIError, httpx2.HTTPError, llm_replies.BadReply) as error:
                problem = _unavailable(error, attempts)
                if retries >= most_retries or not self._wait(problem, retries, request.deadline):
                    raise problem from None
                retries += 1
            else:
                taken_ms = (time.monotonic() - started) * 1000
                return Answer(**fields, attempts=attempts, latency_ms=taken_ms)
            if listener is not None and listener.has_heard:
                # What was told cannot be taken back: the next answer comes as a whole.
                listener = None

    def close(self) -> None:
        """Close the idle connections."""
        self._client.close()

    def _once(self, request: Request, listener: Listener | None) -> dict[str, Any]:
        """One try; the answer's fields."""
        deadline = min(request.deadline, time.monotonic() + self._call_timeout_s)
        budget = bounded.Budget(deadline, self._byte_cap * (1 if listener is None else llm_stream.BYTES_PER_BYTE))
        if not budget.remaining():
            raise llm_replies.BadReply("timeout")
        try:
            with bounded.within(budget):
                response = self._sent(request, listener)
                try:
                    return self._read(response, listener, budget)
                finally:
                    response.close()
        except (openai.APIConnectionError, httpx2.HTTPError):
            if budget.bytes_left < 0:
                raise llm_replies.BadReply("too_large") from None
            raise

    def _sent(self, request: Request, listener: Listener | None) -> httpx2.Response:
        """The response, its body unread; raises openai.APIStatusError for one that is an error."""
        # The client's own way from a body to a response costs several times as much as all the rest of a call, each
        # time for the same address and headers: they are taken from it once, and the transport is asked directly.
        body = encoded(self._body(request, listener))
        asked = httpx2.Request("POST", self._ready.url, headers=self._headers, stream=httpx2.ByteStream(body))
        response = self._transport.handle_request(asked)
        response.request = asked
        if response.status_code >= 300:
            try:
                response.read()
            finally:
                response.close()
            raise self._client._make_status_error_from_response(response)
        return response

    def _read(self, response: httpx2.Response, listener: Listener | None, budget: bounded.Budget) -> dict[str, Any]:
        """The answer's fields; who listens hears them as they come, or whole from a server that does not stream."""
        is_stream = "text/event-stream" in response.headers.get("content-type", "")
        if listener is None or not is_stream:
            content = b"".join(wire.pieces(response))
            if len(content) > self._byte_cap:
                raise llm_replies.BadReply("too_large")
            fields = llm_replies.parsed(content)
            if listener is not None:
                listener(fields["text"] or "")
            return fields
        pieces = wire.pieces(response)
        fields = llm_stream.parsed(pieces, listener, self._byte_cap)
        budget.deadline = min(budget.deadline, time.monotonic() + LAST_BYTES_SECONDS)
        with contextlib.suppress(httpx2.HTTPError):
            # Only a connection whose body was read to its end is kept.
            for _ in pieces:
                pass
        return fields

    def _body(self, request: Request, listener: Listener | None) -> dict[str, Any]:
        wanted = _wanted(request, listener)
        named = {self._sent_as(request, name, value): value for name, value in wanted.items()}
        body: dict[str, Any] = {"model": request.model, "messages": list(request.messages)}
        body |= {name: value for name, value in named.items() if name is not None}
        if request.schema is not None:
            json_schema = {"name": request.kind, "strict": True, "schema": request.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": json_schema}
        return body

    def _adapt(self, request: Request, error: openai.APIStatusError, listener: Listener | None) -> bool:
        """Remember how this model wants the setting that it refused; False when it refused something else."""
        wanted = _wanted(request, listener)
        sent = {self._sent_as(request, name, value): name for name, value in wanted.items()}
        offered = [name for name in sent if name]
        refused = llm_replies.refused_parameter(error.param, error.code, error.message, offered)
        if refused is None:
            return False
        setting = sent[refused]
        is_first_refusal = refused == self._renames.get(setting, setting)
        if len(self._learnt) >= MAX_LEARNT:
            self._learnt.clear()
        lesson = (request.model, setting, repr(wanted[setting]))
        self._learnt[lesson] = _OTHER_NAMES.get(refused) if is_first_refusal else None
        return True

    def _sent_as(self, request: Request, setting: str, value: Any) -> str | None:
        """The name under which the server takes this setting; None when it takes it under none."""
        return self._learnt.get((request.model, setting, repr(value)), self._renames.get(setting, setting))

    def _wait(self, problem: ModelUnavailable, retries: int, deadline: float) -> bool:
        """Sleep before the next try; False when another try makes no sense or comes too late."""
        # Who has waited out a second try has been patient enough.
        if problem.reason not in llm_replies.RETRYABLE or (problem.timed_out and retries):
            return False
        pause = self._uniform(0, BACKOFF_SECONDS * 2**retries)
        wanted = problem.retry_after_s or 0.0
        pause = max(pause, wanted)
        if wanted > self._call_timeout_s or time.monotonic() + pause >= deadline:
            return False
        self._sleep(pause)
        return True


def _authorized(request: httpx2.Request) -> httpx2.Request:
    """The request with the name and password of its address, if it has any, in its headers."""
    if request.url.userinfo:
        next(httpx2.BasicAuth(request.url.username, request.url.password).auth_flow(request))
    return request


def _wanted(request: Request, listener: Listener | None) -> dict[str, Any]:
    """What goes out besides model, messages and schema, before the server's own ways are known."""
    return {**request.settings, **(_STREAMING if listener is not None else {})}


def _unavailable(error: Exception, attempts: int) -> ModelUnavailable:
    """What a failed try means, without any of the texts that came with it."""
    retry_after_s = None
    if isinstance(error, llm_replies.BadReply):
        reason = str(error)
    elif isinstance(error, openai.APITimeoutError | httpx2.TimeoutException):
        reason = "timeout"
    elif isinstance(error, openai.APIStatusError):
        reason = llm_replies.reason_of_status(error.status_code, error.code, error.type)
        retry_after_s = llm_replies.retry_after(error.response.headers)
    else:
        reason = "connection"
    return ModelUnavailable(reason, timed_out=reason == "timeout", retry_after_s=retry_after_s, attempts=attempts)
