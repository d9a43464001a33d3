"""Thinking: from what a turn knows to what it answers; no Flask, no database."""
