"""Thinking: from what a turn knows to what it answers; no Flask, no database."""

from nlp import light_openai

# Here, because it must come before the first import of the client, whichever file of this room that is.
light_openai.install()
