"""Response generation of the offline model: what to say, from the stage's own material and nothing else (English)."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from nlp import similarity
from nlp.offline import examples, manners, properties, reader

MOST_ROWS, MOST_QUESTIONS, MOST_VALUES = 3, 3, 4
_WHETHER = re.compile(r"(?:boolean |a )?(?:flag )?(?:indicating |for |that says )?(?:if|whether) (.+)", re.IGNORECASE)
_CLAUSE = re.compile(r"(?:what|which|when|where|who|how|why|whether)\b", re.IGNORECASE)
_ARTICLE = re.compile(r"(?:the|a|an|your|his|her|their|any|all) ", re.IGNORECASE)
_OF_CUSTOMER = re.compile(r"\b(?:the |a )?(?:customer|user|client|caller)(?:['’]s)? ", re.IGNORECASE)


def respond(reading: reader.Reading) -> str:
    """One reply to the customer."""
    missing = reading.state.get("missing_fields")
    names = [name for name in missing if isinstance(name, str)] if isinstance(missing, list) else []
    body = _ask_for(reading, names) if names else _tell(reading)
    return f"{_greeting(reading)}{body}".strip()


def _greeting(reading: reader.Reading) -> str:
    is_first = not any(role == "assistant" for role, _ in reading.history)
    return "Hello! " if is_first and manners.greets(reading.message) and not _is_greeting(reading) else ""


def _is_greeting(reading: reader.Reading) -> bool:
    return manners.act(reading.message) == "greeting"


def _ask_for(reading: reader.Reading, missing: Sequence[str]) -> str:
    descriptions = reader.section(reading.context, "fields")
    asked = [_request(name, str(descriptions.get(name) or "")) for name in missing[:MOST_QUESTIONS]]
    question = f"Could you tell me {_listed(asked)}?"
    noted = _acknowledgement(reading)
    if noted:
        return f"{noted} {question}"
    if question in reading.last_reply:
        return f"I still need one thing to go on. {question}"
    return f"{_sympathy(reading) or 'Sure, I can help with that.'} {question}"


def _request(name: str, description: str) -> str:
    """How to name a field in a question: "your order number", "the name of the restaurant", "whether …"."""
    plain, _ = properties.split_hints(description.strip())
    plain = plain.rstrip(".")
    if not plain or len(plain.split()) > 12 or any(mark in plain for mark in ".;:\n"):
        return f"your {examples.spaced(name)}"
    if match := _WHETHER.match(plain):
        return f"whether {match[1]}"
    plain = _OF_CUSTOMER.sub("your " if _OF_CUSTOMER.match(plain) else "you ", plain, count=1)
    if not plain.isupper() and not plain.split()[0].isupper():
        plain = plain[0].lower() + plain[1:]
    return plain if _CLAUSE.match(plain) or _ARTICLE.match(plain) else f"the {plain}"


def _acknowledgement(reading: reader.Reading) -> str:
    """Which of the values known now the customer has just given."""
    fields = reader.section(reading.context, "fields")
    heard = reading.message.casefold()
    given = [
        f"{examples.spaced(name)} {examples.said(value)}"
        for name, value in reading.data.items()
        if name in fields and value is not None and _is_said_in(value, heard)
    ]
    return f"Thank you, I have noted: {_listed(given[:MOST_VALUES])}." if given else ""


def _is_said_in(value: object, heard: str) -> bool:
    text = examples.said(value).casefold()
    # A whole sentence as a value is the customer's own story: reading it back would sound odd.
    return (
        not isinstance(value, bool)
        and len(text) <= 60
        and re.search(rf"(?<!\w){re.escape(text)}(?!\w)", heard) is not None
    )


def _tell(reading: reader.Reading) -> str:
    retrieved = reading.state.get("retrieved")
    if isinstance(retrieved, dict) and retrieved.get("error"):
        return "I am sorry, I could not look that up just now. Please try again in a little while."
    if isinstance(retrieved, dict) and isinstance(retrieved.get("rows"), list):
        return _tell_rows(reading, [row for row in retrieved["rows"] if isinstance(row, dict)])
    return examples.reply_line(reading, _known(reading)) or _from_stage(reading)


def _known(reading: reader.Reading) -> dict[str, Any]:
    business = reader.section(reading.context, "business")
    agent = reader.section(reading.context, "agent")
    extra = {name: value for name, value in reading.state.items() if isinstance(value, str | int | float)}
    return {**business, **agent, **extra, **reading.data}


def _tell_rows(reading: reader.Reading, rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        about = _about(reading)
        return f"I looked, but I found nothing{f' for {about}' if about else ''}. Could you check that for me?"
    if len(rows) == 1:
        line = examples.row_line(reading, _known(reading), rows[0])
        about = _about(reading, leave_out=rows[0])
        return line or f"Here is what I found{f' for {about}' if about else ''}: {_row(rows[0])}."
    told = [f"{number}. {_row(row)}" for number, row in enumerate(rows[:MOST_ROWS], start=1)]
    more = f"\nThere are {len(rows) - MOST_ROWS} more." if len(rows) > MOST_ROWS else ""
    return f"I found {len(rows)} results:\n" + "\n".join(told) + more


def _row(row: Mapping[str, Any]) -> str:
    parts = [
        f"{examples.spaced(name)}: {examples.said(value)}"
        for name, value in row.items()
        if value is not None and value not in ("", [], {}) and not name.endswith("_id")
    ]
    return "; ".join(parts) or "no details"


def _about(reading: reader.Reading, leave_out: Mapping[str, Any] | None = None) -> str:
    fields = reader.section(reading.context, "fields")
    parts = [
        f"{examples.spaced(name)} {examples.said(value)}"
        for name, value in reading.data.items()
        if name in fields and value is not None and name not in (leave_out or {})
    ]
    return _listed([part for part in parts if len(part) <= 80][:MOST_VALUES])


def _from_stage(reading: reader.Reading) -> str:
    stage_type = reader.text_of(reading.stage, "stage_type")
    act = manners.act(reading.message)
    business = reader.text_of(reader.section(reading.context, "business"), "business_name")
    agent = reader.text_of(reader.section(reading.context, "agent"), "agent_name")
    if stage_type == "handoff":
        return f"{_sympathy(reading)} I am passing you to a colleague, who will answer you here.".strip()
    if act == "thanks" or stage_type == "closing":
        return f"You are welcome{f', and thank you for writing to {business}' if business else ''}. Have a good day!"
    if act == "greeting" or "greet" in set(similarity.terms(f"{reading.stage.get('stage_name')} {stage_type}")):
        introduction = f" This is {agent}." if agent else ""
        return f"Hello{f' and welcome to {business}' if business else ''}!{introduction} How can I help you?"
    if stage_type == "fallback":
        return "I am not sure that I understood you. Could you put it in other words?"
    return _closing_word(reading)


def _closing_word(reading: reader.Reading) -> str:
    noted = _acknowledgement(reading)
    about = _about(reading)
    if noted:
        return f"{_sympathy(reading)} {noted} Is there anything else?".strip()
    name = examples.spaced(reader.text_of(reading.stage, "stage_name"))
    subject = f" about {name}" if name else ""
    if sympathy := _sympathy(reading):
        return f"{sympathy} I have noted what you told me{subject}. Is there anything you would like to add?"
    known = f" So far I have {about}." if about else ""
    return f"Thank you for your message{subject}.{known} What else can I do for you?"


def _sympathy(reading: reader.Reading) -> str:
    stage = reading.stage
    words = set(
        similarity.terms(f"{stage.get('stage_name')} {stage.get('stage_type')} {stage.get('stage_description')}")
    )
    troubled = words & {
        similarity.stem(word) for word in ("complaint", "complains", "complaining", "unhappy", "damaged")
    }
    return "I am sorry to hear that." if troubled else ""


def _listed(parts: Sequence[str]) -> str:
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"
