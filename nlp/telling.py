"""Telling a reply while it is being written, so that the pieces together are the finished reply."""

from __future__ import annotations

from collections.abc import Callable

from nlp import response_generation

Tell = Callable[[str], None]


class Teller:
    """Hands on the pieces of one reply, cleaned as the whole reply will be."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._blanks = ""
        self._told = 0

    @property
    def has_told(self) -> bool:
        """Whether the customer may have read a first word."""
        return self._told > 0

    def __call__(self, text: str) -> None:
        """The next piece as the model wrote it. Blanks wait for a word after them: those at the end are cut off."""
        seen = self._blanks + response_generation.visible(text)
        seen = seen if self.has_told else seen.lstrip()
        words = seen.rstrip()
        self._blanks = seen[len(words) :]
        self._hand_on(words)

    def end(self, response: str) -> None:
        """The finished reply, told whole when nothing of it was told before."""
        if not self.has_told:
            self._hand_on(response)

    def _hand_on(self, text: str) -> None:
        text = text[: response_generation.MAX_CHARACTERS - self._told]
        if text:
            self._told += len(text)
            self._tell(text)
