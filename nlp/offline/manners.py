"""Small talk the offline model knows: greetings, thanks, yes and no, and questions (English)."""

import re

from nlp import similarity

GREETING = similarity.word_set("hi hello hey greetings hiya howdy morning afternoon evening")
THANKS = similarity.word_set("thanks thank thx cheers appreciate appreciated ta")
FAREWELL = similarity.word_set("bye goodbye farewell ciao cya")
YES = similarity.word_set("yes yeah yep yup sure ok okay correct right exactly absolutely definitely confirmed fine")
NO = similarity.word_set("no nope nah not never neither dont don't doesn't isn't")
FILLER = similarity.word_set(
    "good great nice perfect awesome lovely much very so a lot all that that's thats it is was be will would the"
    " for your you help day have there again well and then now i im i'm am set done nothing else everything"
    " need see later take care today really just one oh please alright information to of me my we sounds sound seems"
    " seem works work suits like go ahead cool wonderful excellent that'll it'll"
)
ASKING_WORDS = similarity.word_set(
    "what where when who whom which how why is are am do does did can could would will shall should may"
)
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?|\d+")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_REQUEST = re.compile(
    r"\b(?:please (?:tell|give|provide|enter|send|share|confirm)|let me know|i (?:still )?need|may i have)\b",
    re.IGNORECASE,
)


def spoken_words(text: str) -> list[str]:
    """Casefolded words and numbers, apostrophes kept."""
    return [word.replace("’", "'") for word in _WORD.findall(text.casefold())]


def sentences(text: str) -> list[str]:
    """The sentences of a text, cut at its punctuation and line ends."""
    return [sentence for sentence in _SENTENCE_END.split(text.strip()) if sentence]


def act(message: str) -> str | None:
    """`greeting`, `thanks`, `yes` or `no` when the message is nothing more than that."""
    spoken = spoken_words(message)
    polite = GREETING | THANKS | FAREWELL | YES | NO | FILLER
    if not spoken or any(word not in polite for word in spoken) or "?" in message:
        return None
    if any(word in THANKS or word in FAREWELL for word in spoken):
        return "thanks"
    if spoken[0] in GREETING or (spoken[0] == "good" and len(spoken) > 1 and spoken[1] in GREETING):
        return "greeting"
    if spoken[0] in NO:
        return "no"
    return "yes"


def greets(message: str) -> bool:
    """Whether a message opens with a greeting, whatever follows."""
    spoken = spoken_words(message[:80])[:2]
    return bool(spoken) and (spoken[0] in GREETING or (spoken[0] == "good" and spoken[-1] in GREETING))


def without_manners(message: str) -> str:
    """The message without greetings and thanks, unless nothing would remain."""
    polite = GREETING | THANKS | FAREWELL | {"please"}
    kept = [word for word in similarity.words(message) if word not in polite]
    return " ".join(kept) or message


def is_question(sentence: str) -> bool:
    """Whether a sentence asks something rather than states it."""
    spoken = spoken_words(sentence[:200])
    return sentence.rstrip().endswith("?") or (bool(spoken) and spoken[0] in ASKING_WORDS)


def questions(reply: str) -> str:
    """The sentences of an assistant's reply that want an answer, "" when there is none."""
    wanting = [part for part in sentences(reply) if part.endswith("?") or _REQUEST.search(part)]
    return " ".join(wanting)
