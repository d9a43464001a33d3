"""The steps of a turn, in order and side by side."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from db.turns import Step
from nlp import data_extraction, data_retrieval, exchange, fields, response_generation, stage_selection
from nlp.data_retrieval import LookUp
from nlp.errors import ModelUnavailable
from nlp.exchange import Ask, Exchange
from nlp.side_by_side import Threads
from nlp.telling import Tell, Teller
from nlp.turn import Turn

ANSWERED = ("ok", "reasked", "safe_default")


def run(
    turn: Turn,
    ask: Ask,
    threads: Threads | None = None,
    look_up: LookUp | None = None,
    *,
    keep_stage: bool = False,
    tell: Tell | None = None,
) -> Iterator[Turn]:
    """The turn wherever its caller should keep it, the last one with its response and complete ledger.

    Steps that `turn.finished` names are not made again. Every step made comes after the last in `turn.steps`. A turn
    is handed out before each model call or look-up that begins after another one ended, and before anything is told:
    what runs side by side is kept together.

    With `threads`, data extraction of the expected stage runs beside stage selection; without `look_up` nothing is
    looked up; with `keep_stage` the present stage stays, whatever is selected. `tell` is called with the pieces of
    the reply as they come: together they are the response, unless the model failed after its first words. Raises
    ModelUnavailable when the model cannot be used and the stage has no text for that case; the last turn before it
    has the failed step."""
    ahead = _look_ahead(turn, ask, threads)
    teller = None if tell is None else Teller(tell)
    try:
        turn = yield from _understood(turn, ask, ahead, look_up, keep_stage)
        turn = _settled(turn, ahead, is_over=False)
        if teller is not None or response_generation.fixed_text(turn) is None:
            yield turn
        turn = _answered(turn, ask, teller)
    except _StepFailed as failed:
        turn = _settled(_with_gaps(failed), ahead)
        yield turn
        text = response_generation.fallback_text(turn)
        if text is None:
            raise failed.error from None
        turn = _fallen_back(turn, failed.step, text)
    else:
        turn = _settled(turn, ahead)
    if teller is not None:
        teller.end(turn.response or "")
    yield turn


def _understood(
    turn: Turn, ask: Ask, ahead: _Ahead | None, look_up: LookUp | None, keep_stage: bool
) -> Generator[Turn, None, Turn]:
    """The steps before the reply."""
    if stage_selection.KIND not in turn.finished:
        selected = _selected(turn, ask)
        turn = stage_selection.enter(selected, turn.stage) if keep_stage and turn.stage else selected
        if _has_fields(turn) and not (ahead is not None and ahead.fits(turn)):
            turn = _settled(turn, ahead, is_over=False)
            yield turn
    if data_extraction.KIND not in turn.finished:
        turn = _extracted(turn, ask, ahead)
    if look_up is not None and data_retrieval.KIND not in turn.finished and data_retrieval.is_due(turn):
        turn = _settled(turn, ahead, is_over=False)
        yield turn
        turn = _finished(data_retrieval.run(turn, look_up), data_retrieval.KIND)
    return turn


def restored(turn: Turn, steps: Sequence[Step]) -> Turn:
    """A fresh turn as it stood after the last step of its earlier attempts that still counts, with all their rows.

    A row counts when its stage and schema are still there and it leads where it led; later steps of the same attempt
    count only after it. Failed and speculative rows and replies never count. For turns without `keep_stage`."""
    turn, rest = turn.changed(steps=tuple(steps)), tuple(steps)
    for kind, taken in _TAKEN.items():
        found = ((at, taken(turn, rest[at])) for at in reversed(range(len(rest))) if rest[at].kind == kind)
        at, further = next(((at, further) for at, further in found if further is not None), (0, None))
        if further is None:
            break
        before, row = turn, rest[at]
        turn, rest = _finished(further, kind), rest[at + 1 :]
        if kind == data_extraction.KIND and data_extraction.overtaken(before, row.output, row.verdict):
            break  # what was looked up then belongs to the older values
    return turn


def _selection_taken(turn: Turn, row: Step) -> Turn | None:
    if row.outcome == "skipped":
        only = turn.reachable[0]
        is_same = len(turn.reachable) == 1 and row.stage_name == only.stage_name
        return stage_selection.enter(turn, only) if is_same else None
    if not _still_fits(row, stage_selection.answer_schema(turn)):
        return None
    after = stage_selection.apply(turn, row.output)
    led_to = row.verdict.get("stage") if isinstance(row.verdict, dict) else None
    return after.changed(answered_by=row.model) if after.verdict["stage"] == led_to else None


def _extraction_taken(turn: Turn, row: Step) -> Turn | None:
    if row.stage_name != turn.stage_or_best.stage_name:
        return None
    if row.outcome == "skipped":
        return None if _has_fields(turn) else data_extraction.apply(turn, None)
    if not _still_fits(row, data_extraction.answer_schema(turn)):
        return None
    overtaken = data_extraction.overtaken(turn, row.output, row.verdict)
    answer = {name: found for name, found in (row.output or {}).items() if name not in overtaken}
    return data_extraction.apply(turn, answer).changed(answered_by=row.model)


def _retrieval_taken(turn: Turn, row: Step) -> Turn | None:
    is_same = row.stage_name == turn.stage_or_best.stage_name and data_retrieval.is_due(turn)
    return turn.changed(retrieved=row.output) if is_same and isinstance(row.output, dict) else None


_TAKEN: dict[str, Callable[[Turn, Step], Turn | None]] = {
    stage_selection.KIND: _selection_taken,
    data_extraction.KIND: _extraction_taken,
    data_retrieval.KIND: _retrieval_taken,
}


def _still_fits(row: Step, schema: dict[str, Any]) -> bool:
    if row.outcome not in ANSWERED:
        return False
    return row.outcome == "safe_default" or fields.schema_fault(schema, row.output) is None


class _StepFailed(Exception):
    """A step got no answer; the turn has it in its ledger."""

    def __init__(self, turn: Turn, held: Exchange, error: ModelUnavailable) -> None:
        super().__init__(error.reason)
        self.step = replace(held, error=error).row("failed", None)
        self.turn = _with_step(turn, self.step).changed(answered_by=turn.answered_by or self.step.model)
        self.error = error


@dataclass(frozen=True)
class _Ahead:
    """Data extraction started before its stage is certain."""

    turn: Turn
    future: Future[Exchange]

    def fits(self, turn: Turn) -> bool:
        return self.turn.stage_or_best.stage_id == turn.stage_or_best.stage_id


def _look_ahead(turn: Turn, ask: Ask, threads: Threads | None) -> _Ahead | None:
    if threads is None or stage_selection.KIND in turn.finished or len(turn.reachable) == 1:
        return None
    expected = stage_selection.enter(turn, turn.stage_or_best)
    if not _has_fields(expected):
        return None
    future = threads.start(lambda: exchange.hold(data_extraction, expected, ask))
    return None if future is None else _Ahead(expected, future)


def _selected(turn: Turn, ask: Ask) -> Turn:
    if len(turn.reachable) == 1:
        return _skipped(stage_selection.enter(turn, turn.reachable[0]), stage_selection.KIND)
    held = exchange.hold(stage_selection, turn, ask)
    if held.error is not None:
        raise _StepFailed(turn, held, held.error)
    return _recorded(stage_selection.apply(turn, held.value), held)


def _extracted(turn: Turn, ask: Ask, ahead: _Ahead | None) -> Turn:
    if not _has_fields(turn):
        return _skipped(data_extraction.apply(turn, None), data_extraction.KIND)
    if ahead is not None and ahead.fits(turn):
        held = ahead.future.result()
    else:
        held = exchange.hold(data_extraction, turn, ask)
    if held.error is not None:
        raise _StepFailed(turn, held, held.error)
    wrong: dict[str, str] = {}
    if isinstance(held.misfit, dict):
        right, wrong = data_extraction.sorted_out(turn, held.misfit)
        held = replace(held, value=right)
    return _recorded(data_extraction.apply(turn, held.value, wrong), held)


def _answered(turn: Turn, ask: Ask, teller: Teller | None) -> Turn:
    fixed = response_generation.fixed_text(turn)
    if fixed is not None:
        return _skipped(response_generation.apply(turn, fixed), response_generation.KIND)
    held = exchange.hold(response_generation, turn, ask, teller)
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
    answered = response_generation.apply(turn, text).changed(degraded=True, answered_by=held.model)
    return _with_step(answered, held.row("fallback" if fallback else "safe_default", None))


def _with_gaps(failed: _StepFailed) -> Turn:
    """The turn with what is missing, also when that was not asked for."""
    turn = failed.turn
    if failed.step.kind == response_generation.KIND:
        return turn
    return turn.changed(missing_fields=fields.missing({} if turn.stage is None else turn.output_schema, turn.data))


def _fallen_back(turn: Turn, failed: Step, text: str) -> Turn:
    """The stage's own text in place of an answer. Nothing else follows from a turn that was not understood."""
    answered = response_generation.apply(turn, text).changed(degraded=True)
    return answered if failed.kind == response_generation.KIND else answered.changed(status="active")


def _settled(turn: Turn, ahead: _Ahead | None, *, is_over: bool = True) -> Turn:
    """The turn with the step that was done ahead in vain, if there is one; whoever is still at it is not waited for,
    and given up when the turn is over."""
    if ahead is None:
        return turn
    made = turn.steps[len(ahead.turn.steps) :]
    if any(step.outcome == "speculative" for step in made):
        return turn
    if any(step.kind == data_extraction.KIND for step in made) and ahead.fits(turn):
        return turn
    if ahead.future.done():
        return _with_step(turn, ahead.future.result().row("speculative", None))
    if not is_over:
        return turn
    abandoned = exchange.unanswered(data_extraction, ahead.turn, ModelUnavailable("abandoned"))
    return _with_step(turn, abandoned.row("speculative", None))


def _recorded(turn: Turn, held: Exchange) -> Turn:
    answered = turn.changed(answered_by=held.model)
    return _finished(_with_step(answered, held.row(held.outcome, turn.verdict)), held.request.kind)


def _skipped(turn: Turn, kind: str) -> Turn:
    row = exchange.skipped(kind, turn)
    # An earlier attempt may have skipped it already.
    known = {(step.kind, step.outcome, step.stage_name) for step in turn.steps}
    is_known = (kind, row.outcome, row.stage_name) in known
    return _finished(turn if is_known else _with_step(turn, row), kind)


def _with_step(turn: Turn, step: Step) -> Turn:
    return turn.changed(steps=(*turn.steps, step))


def _finished(turn: Turn, kind: str) -> Turn:
    return turn.changed(finished=(*turn.finished, kind))


def _has_fields(turn: Turn) -> bool:
    return bool(turn.output_schema.get("properties"))
