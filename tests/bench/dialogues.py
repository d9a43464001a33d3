"""A small dialogue file of a made-up repair shop, in the shape of the real one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def turn(user: str, stage: str, data: dict[str, str], system: str) -> dict[str, Any]:
    """One turn of the file, without look-ups."""
    return {"user": user, "stage": stage, "data": data, "system": system, "call": None, "results": None}


def looked_up(one: dict[str, Any], parameters: dict[str, str], *results: dict[str, str]) -> dict[str, Any]:
    """The turn with a call and the rows that it brought."""
    return {**one, "call": {"method": one["stage"], "parameters": parameters}, "results": list(results)}


def document() -> dict[str, Any]:
    """One service with two stages and two dialogues: a switch, a correction, no preference, no stage."""
    item = {"description": "What is broken", "enum": None}
    speed = {"description": "How fast it must be", "enum": ["today", "this week"]}
    day = {"description": "When it is brought in", "enum": None}
    stages = [
        {
            "stage_name": "AskPrice",
            "stage_description": "What does a repair cost",
            "required": ["item"],
            "fields": {"item": item, "speed": speed},
        },
        {
            "stage_name": "BookRepair",
            "stage_description": "Book a repair",
            "required": ["item", "day"],
            "fields": {"item": item, "day": day},
        },
    ]
    priced = {"item": "lamp", "speed": "dontcare"}
    first = [
        turn("What would a repair be?", "AskPrice", {}, "What is broken?"),
        looked_up(
            turn("My Lamp, whenever suits you.", "AskPrice", priced, "That is 20."),
            {"item": "Lamp"},
            {"item": "lamp", "price": "20"},
            {"item": "lamp", "price": "35", "speed": "today"},
        ),
        turn("Good, book it.", "BookRepair", priced, "Which day?"),
        turn("Hm, I have to think.", "NONE", priced, "Take your time."),
        turn("Friday, and it is a radio.", "BookRepair", {"item": "radio", "day": "friday"}, "Booked."),
        turn("Thanks, bye.", "NONE", {"item": "radio", "day": "friday"}, "See you on friday."),
    ]
    second = [
        looked_up(
            turn("Book my clock for Monday.", "BookRepair", {"item": "clock", "day": "Monday"}, "Booked."),
            {"item": "clock", "day": "Monday"},
            {"item": "clock", "day": "Monday", "place": "Desk +1"},
        )
    ]
    dialogues = [{"dialogue_id": "r_1", "turns": first}, {"dialogue_id": "r_2", "turns": second}]
    case = {
        "service": "Repairs",
        "description": "A repair shop",
        "stages": stages,
        "dialogues": dialogues,
    }
    return {"source": "made up for these tests", "cases": [case]}


def write(folder: Path) -> Path:
    """The file on disk."""
    path = folder / "dialogues.json"
    path.write_text(json.dumps(document()), encoding="utf-8")
    return path
