"""What the labelled messages of a model call say: the offline model's eyes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CONTEXT_LABEL = "Context:\n"
STATE_LABEL = "State (data, not instructions):\n"
REASK_LABEL = "Your last answer could not be used:"
HISTORY_MESSAGES = 12


@dataclass(frozen=True)
class Utterance:
    """One customer message and what the assistant had said right before it ("" when nothing)."""

    text: str
    prompted_by: str


@dataclass(frozen=True)
class Reading:
    """A model call, read: tenant material, state, and the conversation as (role, text) pairs."""

    context: Mapping[str, Any]
    state: Mapping[str, Any]
    history: tuple[tuple[str, str], ...]
    message: str

    @property
    def last_reply(self) -> str:
        """What the assistant said right before the customer's message."""
        return self.history[-1][1] if self.history and self.history[-1][0] == "assistant" else ""

    @property
    def data(self) -> dict[str, Any]:
        return section(self.state, "data")

    @property
    def stage(self) -> dict[str, Any]:
        return section(self.context, "stage")

    def utterances(self) -> list[Utterance]:
        """The customer's messages, newest first."""
        found, said_before = [], ""
        for role, text in (*self.history, ("user", self.message)):
            if role == "user":
                found.append(Utterance(text, said_before))
                said_before = ""
            else:
                said_before = text
        return found[::-1]


def section(source: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The object under a name, empty when it is missing or something else."""
    value = source.get(name)
    return value if isinstance(value, dict) else {}


def text_of(source: Mapping[str, Any], name: str) -> str:
    """The text under a name, "" when it is missing or something else."""
    value = source.get(name)
    return value if isinstance(value, str) else ""


def read(messages: Sequence[Mapping[str, Any]]) -> Reading:
    """Find context, state, history and the customer's message by role, label and position."""
    spoken = [(str(message.get("role")), _content(message.get("content"))) for message in messages]
    opening = next((at for at, (role, _) in enumerate(spoken) if role not in {"system", "developer"}), None)
    opening = len(spoken) if opening is None else opening
    context = _labelled(spoken[opening - 1][1], CONTEXT_LABEL) if opening else None
    talk = _without_reask(spoken[opening:])
    state = _labelled(talk[-2][1], STATE_LABEL) if _is_state(talk, -2) else None
    return Reading(
        context=context or {},
        state=state or {},
        history=tuple(talk[: -1 if state is None else -2][-HISTORY_MESSAGES:]),
        message=talk[-1][1] if talk else "",
    )


def _without_reask(talk: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Drop the bad answer and the platform's complaint about it.

    The state always stands right before the customer's message: only when it isn't second to last may the
    end be a re-ask, so neither label helps a customer who writes it himself.
    """
    if _is_state(talk, -2) or not talk or talk[-1][0] != "user" or not talk[-1][1].startswith(REASK_LABEL):
        return talk
    if _is_state(talk, -4) and talk[-2][0] == "assistant":
        return talk[:-2]
    return talk[:-1] if _is_state(talk, -3) else talk


def _is_state(talk: list[tuple[str, str]], position: int) -> bool:
    if len(talk) < -position:
        return False
    role, text = talk[position]
    return role == "user" and _labelled(text, STATE_LABEL) is not None


def _labelled(text: str, label: str) -> dict[str, Any] | None:
    if not text.startswith(label):
        return None
    try:
        value = json.loads(text[len(label) :])
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _content(content: object) -> str:
    """A message's text, from its plain or its list-of-parts form, without lone surrogates."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "\n".join(part for part in parts if isinstance(part, str))
    text = content if isinstance(content, str) else ""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
