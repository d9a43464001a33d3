"""The steps of a turn, in order and side by side."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace

from db.turns import Step
from nlp import data_extraction, data_retrieval, exchange, fields, response_generation, stage_selection
from nlp.data_retrieval import LookUp
from nlp.errors import ModelUnavailable
from nlp.exchange import Ask, Exchange
from nlp.side_by_side import Threads
from nlp.turn import Turn


def run(
    turn: Turn,
    ask: Ask,
    threads: Threads | None = None,
    look_up: LookUp | None = None,
    *,
    keep_stage: bool = False,
) -> Iterator[Turn]:
    """The turn after each finished step, the last one with its response and complete ledger.

    With `threads`, data extraction of the expected stage runs beside stage selection; without `look_up` nothing is
    looked up; with `keep_stage` the present stage stays, whatever is selected. Raises ModelUnavailable when the model
    cannot be used and the stage has no text for that case; the last turn before it has the failed step."""
    ahead = _look_ahead(turn, ask, threads)
    try:
        selected = _selected(turn, ask)
        turn = stage_selection.enter(selected, turn.stage) if keep_stage and turn.stage else selected
        yield turn
        turn = _extracted(turn, ask, ahead)
        yield turn
        if look_up is not None and data_retrieval.is_due(turn):
            turn = data_retrieval.run(turn, look_up)
            yield turn
        turn = _answered(turn, ask)
    except _StepFailed as failed:
        turn = _settled(failed.turn, ahead)
        text = response_generation.fallback_text(turn)
        if text is None:
            yield turn
            raise failed.error from None
        yield _fallen_back(turn, failed.step, text)
    else:
        yield _settled(turn, ahead)


class _StepFailed(Exception):
    """A step got no answer; the turn has it in its ledger."""

    def __init__(self, turn: Turn, held: Exchange, error: ModelUnavailable) -> None:
        super().__init__(error.reason)
        self.step = replace(held, error=error).row("failed", None)
        self.turn = _with_step(turn, self.step)
        self.error = error


@dataclass(frozen=True)
class _Ahead:
    """Data extraction started before its stage is certain."""

    turn: Turn
    future: Future[Exchange]

    def fits(self, turn: Turn) -> bool:
        return self.turn.stage_or_best.stage_id == turn.stage_or_best.stage_id


def _look_ahead(turn: Turn, ask: Ask, threads: Threads | None) -> _Ahead | None:
    if threads is None or len(turn.reachable) == 1:
        return None
    expected = stage_selection.enter(turn, turn.stage_or_best)
    if not _has_fields(expected):
        return None
    future = threads.start(lambda: exchange.hold(data_extraction, expected, ask))
    return None if future is None else _Ahead(expected, future)


def _selected(turn: Turn, ask: Ask) -> Turn:
    if len(turn.reachable) == 1:
        entered = stage_selection.enter(turn, turn.reachable[0])
        return _with_step(entered, exchange.skipped(stage_selection.KIND, entered))
    held = exchange.hold(stage_selection, turn, ask)
    if held.error is not None:
        raise _StepFailed(turn, held, held.error)
    return _recorded(stage_selection.apply(turn, held.value), held)


def _extracted(turn: Turn, ask: Ask, ahead: _Ahead | None) -> Turn:
    if not _has_fields(turn):
        unchanged = data_extraction.apply(turn, None)
        return _with_step(unchanged, exchange.skipped(data_extraction.KIND, turn))
    if ahead is not None and ahead.fits(turn):
        held = ahead.future.result()
    else:
        held = exchange.hold(data_extraction, turn, ask)
    if held.error is not None:
        raise _StepFailed(turn, held, held.error)
    return _recorded(data_extraction.apply(turn, held.value), held)


def _answered(turn: Turn, ask: Ask) -> Turn:
    fixed = response_generation.fixed_text(turn)
    if fixed is not None:
        answered = response_generation.apply(turn, fixed)
        return _with_step(answered, exchange.skipped(response_generation.KIND, turn))
    held = exchange.hold(response_generation, turn, ask)
    if held.error is not None:
        raise _StepFailed(turn, held, held.error)
    if held.fault is not None:
        return _made_do(turn, held)
    return _recorded(response_generation.apply(turn, held.value), held)


def _made_do(turn: Turn, held: Exchange) -> Turn:
    """A reply although no answer was usable: the stage's own text, else the last words the model said."""
    fallback = response_generation.fallback_text(turn)
    spoken = (answer.raw for answer in reversed(held.answers))
    text = fallback or next((words for words in spoken if response_generation.cleaned(words)), None)
    if text is None:
        raise _StepFailed(turn, held, ModelUnavailable("empty_answer", attempts=0))
    answered = replace(response_generation.apply(turn, text), degraded=True, answered_by=held.model)
    return _with_step(answered, held.row("fallback" if fallback else "safe_default", None))


def _fallen_back(turn: Turn, failed: Step, text: str) -> Turn:
    """The stage's own text in place of an answer. Nothing else follows from a turn that was not understood."""
    answered = replace(response_generation.apply(turn, text), degraded=True)
    if failed.kind == response_generation.KIND:
        return answered
    known = {} if turn.stage is None else turn.output_schema
    return replace(answered, status="active", missing_fields=fields.missing(known, turn.data))


def _settled(turn: Turn, ahead: _Ahead | None) -> Turn:
    """The turn with the step that was done ahead in vain, if there is one; whoever is still at it is not waited for."""
    if ahead is None:
        return turn
    is_extracted = any(step.kind == data_extraction.KIND for step in turn.steps)
    if is_extracted and ahead.fits(turn):
        return turn
    if ahead.future.done():
        return _with_step(turn, ahead.future.result().row("speculative", None))
    abandoned = exchange.unanswered(data_extraction, ahead.turn, ModelUnavailable("abandoned"))
    return _with_step(turn, abandoned.row("speculative", None))


def _recorded(turn: Turn, held: Exchange) -> Turn:
    answered = replace(turn, answered_by=held.model)
    return _with_step(answered, held.row(held.outcome, turn.verdict))


def _with_step(turn: Turn, step: Step) -> Turn:
    return replace(turn, steps=(*turn.steps, step))


def _has_fields(turn: Turn) -> bool:
    return bool(turn.output_schema.get("properties"))
