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

    @property
    def on_concurrent_message(self) -> str:
        """What becomes of a message while another one is being answered: queue, reject or merge."""
        return str(self.business.settings.get("on_concurrent_message", "queue"))

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
    """The set-ups that this process used last. Each use asks for the version, so a change counts at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[tuple[Any, ...], Setup]] = OrderedDict()

    def get(self, conn: db.Connection, business_id: str) -> Setup:
        """The business's set-up as it is now; raises NotFound."""
        version = businesses.setup_version(conn, business_id)
        with self._lock:
            kept = self._kept.get(business_id)
            if kept is not None and kept[0] == version:
                self._kept.move_to_end(business_id)
                return kept[1]
        # Read after the version: a change in between makes this one look older than it is, never newer.
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
