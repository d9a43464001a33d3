"""The only way to the model: one bounded question through the OpenAI client, retried a little within its deadline."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2
import openai

from nlp import bounded, llm_replies
from nlp.errors import ModelUnavailable

Message = Mapping[str, str]

OPENAI_URL = "https://api.openai.com/v1"
MAX_RETRIES = 2
MAX_ADAPTATIONS = 8
MAX_LEARNT = 10_000
BACKOFF_SECONDS = 0.5
CONNECT_SECONDS = 5.0

_OTHER_NAMES = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}

# At INFO and below these log every call's address, which may hold a password, and the server's headers.
for _name in ("openai", "httpx2", "httpcore2"):
    logging.getLogger(_name).setLevel(logging.WARNING)


@dataclass(frozen=True)
class Request:
    """One question to a model. `schema` is the JSON Schema of the answer, None for free text; `deadline` is on the
    monotonic clock; `settings` holds only what is set."""

    kind: str
    messages: Sequence[Message]
    schema: Mapping[str, Any] | None
    model: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    deadline: float = float("inf")


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
    ) -> None:
        """`call_timeout_s` covers one question with its retries; `byte_cap` what the server may send for it."""
        self._call_timeout_s = call_timeout_s
        self._byte_cap = byte_cap
        self._sleep, self._uniform = sleep, uniform
        # OpenAI's newer models refuse max_tokens; other servers know nothing else.
        renames = {"max_tokens": "max_completion_tokens"} if (base_url or OPENAI_URL).startswith(OPENAI_URL) else {}
        self._renames: Mapping[str, str] = renames
        # By model, setting and value: what one tenant's value taught must not change another tenant's calls.
        self._learnt: dict[tuple[str, str, str], str | None] = {}
        self._client = openai.OpenAI(
            api_key=api_key or "unset",
            base_url=base_url or OPENAI_URL,
            max_retries=0,
            # Compressed bodies could be small on the wire and huge in memory.
            default_headers={"Accept-Encoding": "identity"},
            http_client=httpx2.Client(transport=http_transport or bounded.transport(connections)),
        )

    def ask(self, request: Request) -> Answer:
        """The model's answer, whatever it says; raises ModelUnavailable."""
        started = time.monotonic()
        deadline = min(request.deadline, started + self._call_timeout_s)
        attempts = retries = 0
        while True:
            attempts += 1
            try:
                answer = self._once(request, deadline)
            except openai.BadRequestError as error:
                if attempts > MAX_ADAPTATIONS or not self._adapt(request, error):
                    raise _unavailable(error, attempts) from None
            except (openai.OpenAIError, httpx2.HTTPError, llm_replies.BadReply) as error:
                problem = _unavailable(error, attempts)
                if retries == MAX_RETRIES or not self._wait(problem, retries, deadline):
                    raise problem from None
                retries += 1
            else:
                taken_ms = (time.monotonic() - started) * 1000
                return replace(answer, attempts=attempts, latency_ms=taken_ms)

    def close(self) -> None:
        """Close the idle connections."""
        self._client.close()

    def _once(self, request: Request, deadline: float) -> Answer:
        budget = bounded.Budget(deadline, self._byte_cap)
        if not budget.remaining():
            raise llm_replies.BadReply("timeout")
        timeout = httpx2.Timeout(budget.remaining(), connect=min(CONNECT_SECONDS, budget.remaining()))
        try:
            with bounded.within(budget):
                # The typed method costs three times as much: it transforms the request and builds a model of the reply.
                response = self._client.post(
                    "/chat/completions",
                    cast_to=httpx2.Response,
                    body=self._body(request),
                    options={"timeout": timeout},
                )
        except openai.APIConnectionError:
            if budget.bytes_left < 0:
                raise llm_replies.BadReply("too_large") from None
            raise
        if len(response.content) > self._byte_cap:
            raise llm_replies.BadReply("too_large")
        return Answer(**llm_replies.parsed(response.content))

    def _body(self, request: Request) -> dict[str, Any]:
        named = {self._sent_as(request, name): value for name, value in request.settings.items()}
        body: dict[str, Any] = {"model": request.model, "messages": list(request.messages)}
        body |= {name: value for name, value in named.items() if name is not None}
        if request.schema is not None:
            json_schema = {"name": request.kind, "strict": True, "schema": request.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": json_schema}
        return body

    def _adapt(self, request: Request, error: openai.BadRequestError) -> bool:
        """Remember how this model wants the setting that it refused; False when it refused something else."""
        sent = {self._sent_as(request, name): name for name in request.settings}
        offered = [name for name in sent if name]
        refused = llm_replies.refused_parameter(error.param, error.code, error.message, offered)
        if refused is None:
            return False
        setting = sent[refused]
        is_first_refusal = refused == self._renames.get(setting, setting)
        if len(self._learnt) >= MAX_LEARNT:
            self._learnt.clear()
        self._learnt[_lesson(request, setting)] = _OTHER_NAMES.get(refused) if is_first_refusal else None
        return True

    def _sent_as(self, request: Request, setting: str) -> str | None:
        """The name under which the server takes this setting; None when it takes it under none."""
        return self._learnt.get(_lesson(request, setting), self._renames.get(setting, setting))

    def _wait(self, problem: ModelUnavailable, retries: int, deadline: float) -> bool:
        """Sleep before the next try; False when another try makes no sense or comes too late."""
        if problem.reason not in llm_replies.RETRYABLE:
            return False
        pause = self._uniform(0, BACKOFF_SECONDS * 2**retries)
        if problem.retry_after_s is not None:
            pause = max(pause, problem.retry_after_s)
        if time.monotonic() + pause >= deadline:
            return False
        self._sleep(pause)
        return True


def _lesson(request: Request, setting: str) -> tuple[str, str, str]:
    return (request.model, setting, repr(request.settings[setting]))


def _unavailable(error: Exception, attempts: int) -> ModelUnavailable:
    """What a failed try means, without any of the texts that came with it."""
    retry_after_s = None
    if isinstance(error, llm_replies.BadReply):
        reason = str(error)
    elif isinstance(error, openai.APITimeoutError):
        reason = "timeout"
    elif isinstance(error, openai.APIStatusError):
        reason = llm_replies.reason_of_status(error.status_code, error.code, error.type)
        retry_after_s = llm_replies.retry_after(error.response.headers)
    else:
        reason = "connection"
    return ModelUnavailable(reason, timed_out=reason == "timeout", retry_after_s=retry_after_s, attempts=attempts)
