"""What turns read of a business's set-up, kept in this process as long as it is the newest."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import db
from db import agents, businesses, stages, templates
from db.agents import Agent
from db.businesses import Business
from db.stages import Stage
from db.templates import Template
from nlp.turn import Turn

KEPT = 200


@dataclass(frozen=True)
class Setup:
    """A business without its lists, its stages oldest first, its agents by id, its templates by name."""

    business: Business
    stages: tuple[Stage, ...]
    agents: Mapping[str, Agent]
    templates: Mapping[str, Template]

    def turn(self, message: str, metadata: Mapping[str, Any], model: str, **known: Any) -> Turn:
        """The first moment of a turn."""
        return Turn(
            business=self.business,
            agents=self.agents,
            stages=self.stages,
            templates=self.templates,
            message=message,
            metadata=metadata,
            now=datetime.now(UTC).isoformat(timespec="seconds"),
            model=model,
            **known,
        )


class Setups:
    """The set-ups that this process used last. Each use knows the newest version, so a change counts at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[tuple[Any, ...], Setup]] = OrderedDict()

    def kept(self, business_id: str, version: tuple[Any, ...]) -> Setup | None:
        """The business's set-up if it is kept in this version."""
        with self._lock:
            found = self._kept.get(business_id)
            if found is None or found[0] != version:
                return None
            self._kept.move_to_end(business_id)
            return found[1]

    def get(self, conn: db.Connection, business_id: str) -> Setup:
        """The business's set-up as it is now, in a transaction of one moment: one that is replaced meanwhile would be
        read half old, half new. Raises NotFound."""
        version = businesses.setup_version(conn, business_id)
        kept = self.kept(business_id, version)
        if kept is not None:
            return kept
        setup = Setup(
            business=businesses.get(conn, business_id, with_lists=False),
            stages=tuple(stages.list_every(conn, business_id)),
            agents={agent.agent_id: agent for agent in agents.list_every(conn, business_id)},
            templates=templates.latest(conn, business_id),
        )
        with self._lock:
            self._kept[business_id] = (version, setup)
            self._kept.move_to_end(business_id)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return setup
