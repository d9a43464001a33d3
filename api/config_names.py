"""What tells the items of a set-up apart: in a document they have no ids."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from api.errors import InvalidRequest

Item = dict[str, Any]
_NAMES = {"agents": "agent_name", "templates": "template_id", "stages": "stage_name"}


def names_of(section: str, items: Sequence[Item]) -> list[str]:
    """What tells each of these completed items from its neighbours: its name, an offer's sku. Offers without a sku may
    share a name: the further ones get a number, in the order of what they hold, which is the same in every document."""
    if section in _NAMES:
        return [str(item[_NAMES[section]]) for item in items]
    found = [str(item["sku"] or "") for item in items]
    taken, numbers = {*found}, Counter[str]()
    without_sku = [place for place, sku in enumerate(found) if not sku]
    for place in sorted(without_sku, key=lambda place: json.dumps(items[place], sort_keys=True)):
        name = str(items[place]["name"])
        while found[place] in taken:
            numbers[name] += 1
            found[place] = name if numbers[name] == 1 else f"{name} ({numbers[name]})"
        taken.add(found[place])
    return found


def by_name(section: str, found: Sequence[Item]) -> dict[str, Item]:
    """The items of a document by their names; raises InvalidRequest when one stands twice."""
    items: dict[str, Item] = {}
    for index, (name, item) in enumerate(zip(names_of(section, found), found, strict=True)):
        if name in items:
            raise InvalidRequest(
                f"{section}[{index}]: {name[:100]!r} stands twice", "Give each one a name or sku of its own"
            )
        items[name] = item
    return items
