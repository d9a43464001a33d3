"""Situation awareness of the offline model: which stage a customer's message belongs to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nlp import similarity
from nlp.offline import manners, reader

NONE = "none"
FITS = 0.12
AGREED = 0.3
HISTORY_SHARE = 0.15
OFFER_SHARE = 0.5
STICKINESS = 0.08
ANSWER_STICKINESS = 0.35
SHORT_ANSWER_TERMS = 4
ACT_WORDS = {
    "greeting": frozenset(map(similarity.stem, similarity.words("greeting hello hi welcome"))),
    "thanks": frozenset(map(similarity.stem, similarity.words("closing farewell goodbye bye thanks"))),
}


@dataclass(frozen=True)
class _Choice:
    stage: str
    confidence: float
    reason: str


def select(reading: reader.Reading, schema: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a stage_selection call, within the enum of its schema."""
    choice = _choose(reading, _allowed(schema))
    return {"reason": choice.reason, "stage": choice.stage, "confidence": round(choice.confidence, 2)}


def _allowed(schema: Mapping[str, Any]) -> list[str]:
    properties = reader.section(schema, "properties")
    names = reader.section(properties, "stage").get("enum")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else [NONE]


def _stages(reading: reader.Reading, allowed: Sequence[str]) -> list[dict[str, Any]]:
    listed = reading.context.get("stages")
    known = {
        reader.text_of(stage, "stage_name"): stage
        for stage in (listed if isinstance(listed, list) else [])
        if isinstance(stage, dict)
    }
    return [known.get(name, {"stage_name": name}) for name in allowed if name != NONE]


def _choose(reading: reader.Reading, allowed: Sequence[str]) -> _Choice:
    stages = _stages(reading, allowed)
    current = reader.text_of(reading.state, "current_stage")
    current = current if current in allowed else ""
    act = manners.act(reading.message)
    if act in ACT_WORDS:
        return _small_talk(act, stages, allowed)
    if act and current:
        agreed = _agreed_to(reading, stages, current) if act == "yes" else None
        return agreed or _Choice(current, 0.8, "The customer answers within the present stage.")
    # A fallback stage describes everything and nothing: it is chosen below, never by likeness.
    usual = [stage for stage in stages if reader.text_of(stage, "stage_type") != "fallback"]
    return _by_likeness(reading, usual, current) or _nothing_fits(reading, stages, current, allowed)


def _small_talk(act: str, stages: Sequence[Mapping[str, Any]], allowed: Sequence[str]) -> _Choice:
    labels = [f"{stage.get('stage_name')} {stage.get('stage_type')}" for stage in stages]
    descriptions = [reader.text_of(stage, "stage_description") for stage in stages]
    # A stage named for the small talk goes before one that only mentions it.
    for stage, text in [*zip(stages, labels, strict=True), *zip(stages, descriptions, strict=True)]:
        if ACT_WORDS[act] & set(map(similarity.stem, similarity.words(text))):
            return _Choice(str(stage["stage_name"]), 0.9, f"The message is no more than small talk ({act}).")
    quiet = NONE if NONE in allowed or not stages else str(stages[0]["stage_name"])
    return _Choice(quiet, 0.6, "Small talk, and no stage is meant for it.")


def _agreed_to(reading: reader.Reading, stages: Sequence[Mapping[str, Any]], current: str) -> _Choice | None:
    """The stage of what the assistant had offered, when the customer's yes leads away from the present one."""
    offer = manners.questions(reading.last_reply)
    scores = dict(similarity.rank(offer, _candidates(stages))) if offer else {}
    best = max(scores, key=lambda name: scores[name], default=current)
    if best == current or scores[best] < max(AGREED, 1.5 * scores.get(current, 0.0)):
        return None
    return _Choice(best, 0.7, f"The customer agrees to an offer that is most like the stage {best}.")


def _by_likeness(reading: reader.Reading, stages: Sequence[Mapping[str, Any]], current: str) -> _Choice | None:
    candidates = _candidates(stages)
    scores = dict(similarity.rank(manners.without_manners(reading.message), candidates))
    answers = current in scores and _sounds_like_an_answer(reading)
    if not scores or (max(scores.values()) < FITS and not answers):
        return None
    earlier = " ".join(text for _, text in reading.history[-3:])
    for name, score in similarity.rank(earlier, candidates) if earlier else ():
        scores[name] += HISTORY_SHARE * score
    offer = manners.questions(reading.last_reply) if _agrees(reading.message) else ""
    for name, score in similarity.rank(offer, candidates) if offer else ():
        scores[name] += OFFER_SHARE * score
    if current in scores:
        scores[current] += ANSWER_STICKINESS if answers else STICKINESS
    ordered = sorted(scores, key=lambda name: -scores[name])
    best = scores[ordered[0]]
    second = scores[ordered[1]] if len(ordered) > 1 else 0.0
    confidence = min(0.99, 0.4 + 0.3 * min(best, 1.0) + 0.3 * (best - second) / best)
    return _Choice(ordered[0], confidence, f"The message is most like the stage {ordered[0]}.")


def _candidates(stages: Sequence[Mapping[str, Any]]) -> list[similarity.Candidate]:
    return [
        similarity.Candidate(
            str(stage["stage_name"]),
            reader.text_of(stage, "stage_description"),
            reader.text_of(stage, "example_conversations"),
        )
        for stage in stages
    ]


def _agrees(message: str) -> bool:
    return bool(set(manners.spoken_words(message[:40])[:1]) & manners.YES)


def _sounds_like_an_answer(reading: reader.Reading) -> bool:
    """Whether the message is short, or carries a number, right after the assistant's question."""
    if not manners.questions(reading.last_reply) or manners.is_question(reading.message):
        return False
    words = similarity.words(reading.message)
    content = [word for word in words if word not in similarity.STOP_WORDS]
    return len(content) <= SHORT_ANSWER_TERMS or any(word.isdigit() for word in words[:40])


def _nothing_fits(
    reading: reader.Reading,
    stages: Sequence[Mapping[str, Any]],
    current: str,
    allowed: Sequence[str],
) -> _Choice:
    reason = "Nothing the message says belongs to a stage."
    content = set(similarity.words(reading.message)) - similarity.STOP_WORDS
    talks_on = bool(current) and (len(content) < 2 or bool(manners.questions(reading.last_reply)))
    for stage in stages:
        if stage.get("stage_type") == "fallback" and not talks_on:
            return _Choice(str(stage["stage_name"]), 0.5, reason)
    if NONE in allowed or not stages:
        return _Choice(NONE, 0.4, reason)
    return _Choice(current or str(stages[0]["stage_name"]), 0.1, reason)
