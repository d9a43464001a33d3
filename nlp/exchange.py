"""One question of a step to the model, asked again once when the answer cannot be used; and its row in the ledger."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from db.turns import Step
from json_text import encoded
from nlp import fields, llm, messages, prices, response_generation
from nlp.errors import ModelAnswerInvalid, ModelUnavailable
from nlp.telling import Teller
from nlp.turn import Turn

Ask = Callable[[llm.Request], llm.Answer]
MAX_REPEATED = 4000
MAX_DIGITS = 40

# Refusals: nothing was generated, so nobody is charged. A connection may have broken while the model wrote.
_UNCHARGED = frozenset({"rate_limited", "quota", "unauthorized", "rejected", "breaker_open"})
_UNFINISHED = {"length": "it was cut off before its end", "content_filter": "it was filtered"}


class PromptStep(Protocol):
    """What a step's module offers to be asked about."""

    KIND: str

    def prompt(self, turn: Turn, /) -> tuple[llm.Message, ...]: ...

    def answer_schema(self, turn: Turn, /) -> dict[str, Any] | None: ...


@dataclass(frozen=True)
class Exchange:
    """What was asked and answered. `value` is the usable answer, `fault` what is wrong with the last one, `misfit` its
    value when that is JSON but not as the schema wants it, `error` why none came at all."""

    turn: Turn
    request: llm.Request
    answers: tuple[llm.Answer, ...] = ()
    value: Any = None
    fault: str | None = None
    misfit: Any = None
    error: ModelUnavailable | None = None
    latency_ms: float = 0.0

    @property
    def outcome(self) -> str:
        """ok, reasked (the second answer was good), safe_default or failed."""
        if self.error is not None:
            return "failed"
        if self.fault is not None:
            return "safe_default"
        return "ok" if len(self.answers) == 1 else "reasked"

    @property
    def model(self) -> str:
        """Who answered; without an answer, who was asked."""
        return (self.answers[-1].model if self.answers else "") or self.request.model

    def row(self, outcome: str, verdict: Any) -> Step:
        """The exchange as a row of the ledger."""
        stage = self.turn.stage_or_best
        template = messages.template(self.request.kind, self.turn)
        return Step(
            kind=self.request.kind,
            outcome=outcome,
            stage_name=stage.stage_name,
            template_id=None if template is None else template.template_id,
            template_version=None if template is None else template.version,
            model=self.model,
            attempts=sum(answer.attempts for answer in self.answers) + (self.error.attempts if self.error else 0),
            prompt_tokens=sum(answer.prompt_tokens for answer in self.answers),
            completion_tokens=sum(answer.completion_tokens for answer in self.answers),
            cost_usd=self._cost_usd(),
            latency_ms=self.latency_ms,
            prompt=list(self.request.messages),
            raw_outputs=[answer.raw for answer in self.answers],
            output=self.value,
            verdict=self._explained(verdict),
        )

    def _explained(self, verdict: Any) -> Any:
        if self.error is not None:
            return {"reason": self.error.reason}
        if self.fault is None:
            return verdict
        told = verdict or {}
        return {**told, "fault" if "fault" not in told else "fault of the answer": self.fault}

    def _cost_usd(self) -> float | None:
        if self.error is not None and self.error.attempts and self.error.reason not in _UNCHARGED:
            return None  # a try without an answer may have been charged
        costs = [
            prices.cost_usd(self._priced(answer), answer.prompt_tokens, answer.completion_tokens)
            for answer in self.answers
        ]
        known = [cost for cost in costs if cost is not None]
        return round(sum(known), 8) if len(known) == len(costs) else None

    def _priced(self, answer: llm.Answer) -> str:
        """The model that answered; one that goes by a name of its server's own costs what was asked for."""
        return answer.model if prices.known_name(answer.model) else self.request.model


def hold(step: PromptStep, turn: Turn, ask: Ask, teller: Teller | None = None) -> Exchange:
    """Ask, and once more with the fault named when the answer cannot be used. Raises nothing of the model's."""
    request = _request(step, turn, teller)
    held = Exchange(turn, request)
    started = time.monotonic()
    try:
        held = _heard(held, ask(request), started)
        if held.fault is not None:
            is_silent = teller is not None and teller.has_told
            held = _heard(held, ask(_again(replace(request, on_text=None if is_silent else teller), held)), started)
    except ModelUnavailable as error:
        held = replace(held, error=error, latency_ms=_ms_since(started))
    return held


def unanswered(step: PromptStep, turn: Turn, error: ModelUnavailable) -> Exchange:
    """A question whose answer nobody waited for."""
    return Exchange(turn, _request(step, turn), error=error)


def skipped(kind: str, turn: Turn) -> Step:
    """The ledger's row for a step that needed no model."""
    return Step(
        kind=kind,
        outcome="skipped",
        stage_name=turn.stage_or_best.stage_name,
        template_id=None,
        template_version=None,
        model=None,
        attempts=0,
        prompt_tokens=0,
        completion_tokens=0,
        cost_usd=0.0,
        latency_ms=0.0,
        prompt=[],
        raw_outputs=[],
        output=None,
        verdict=None,
    )


def _request(step: PromptStep, turn: Turn, teller: Teller | None = None) -> llm.Request:
    settings = messages.settings(step.KIND, turn)
    if step.KIND == response_generation.KIND and turn.agent is not None:
        settings = {**turn.agent.model_settings, **settings}
    model = settings.pop("model", None) or turn.model
    return llm.Request(
        kind=step.KIND,
        messages=step.prompt(turn),
        schema=step.answer_schema(turn),
        model=model,
        settings={name: _sendable(value) for name, value in settings.items() if value is not None},
        deadline=turn.deadline,
        on_text=teller,
    )


def _sendable(setting: Any) -> Any:
    """A whole number as one: JSON Schema takes 100.0 for an integer, servers with typed requests do not."""
    return int(setting) if isinstance(setting, float) and setting.is_integer() else setting


def _ms_since(started: float) -> float:
    return round((time.monotonic() - started) * 1000, 3)


def _heard(held: Exchange, answer: llm.Answer, started: float) -> Exchange:
    value = fault = misfit = None
    try:
        value = _usable(answer, held.request.schema)
    except ModelAnswerInvalid as invalid:
        fault, misfit = str(invalid), invalid.misfit
    answers = (*held.answers, answer)
    return Exchange(held.turn, held.request, answers, value, fault, misfit, latency_ms=_ms_since(started))


def _again(request: llm.Request, held: Exchange) -> llm.Request:
    said = held.answers[-1].raw[:MAX_REPEATED]
    wanted = "in full, but shorter" if request.schema is None else "with one JSON object that fits the schema"
    complaint = f"Your last answer could not be used: {held.fault}. Answer again {wanted}."
    repeated = ({"role": "assistant", "content": said},) if said else ()
    return replace(request, messages=(*request.messages, *repeated, {"role": "user", "content": complaint}))


def _usable(answer: llm.Answer, schema: Mapping[str, Any] | None) -> Any:
    """The answer's text or, with a schema, its value; raises ModelAnswerInvalid."""
    if answer.refusal:
        raise ModelAnswerInvalid("it was a refusal")
    if answer.finish_reason in _UNFINISHED:
        raise ModelAnswerInvalid(_UNFINISHED[answer.finish_reason])
    text = answer.text or ""
    if not response_generation.cleaned(text):
        raise ModelAnswerInvalid("it was empty")
    if schema is not None:
        return _value(text, schema)
    if len(text) > response_generation.MAX_CHARACTERS:
        raise ModelAnswerInvalid(f"it was longer than {response_generation.MAX_CHARACTERS} characters")
    return text


def _value(text: str, schema: Mapping[str, Any]) -> Any:
    try:
        value = _DECODER.decode(text)
        told = encoded(value)
    except (ValueError, RecursionError):
        raise ModelAnswerInvalid("it was not valid JSON") from None
    if b"\\u0000" in told:
        raise ModelAnswerInvalid("it held a NUL character")
    fault = fields.schema_fault(schema, value)
    if fault is not None:
        raise ModelAnswerInvalid(f"it did not fit the schema: {fault}", value)
    return value


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _bounded(text: str) -> int:
    # As in callers' own bodies: no arithmetic takes whole numbers without end.
    if len(text) > MAX_DIGITS:
        raise ValueError(text)
    return int(text)


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


# json.loads would make one for each text.
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite, parse_int=_bounded)
