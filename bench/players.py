"""Who plays: one service after another as a business, one dialogue after another as a customer."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bench import importer, look_ups, oracle, rows, scores

LONGEST_WAIT_SECONDS = 120
MOST_WAITS = 20


@dataclass(frozen=True)
class Player:
    """Plays against one app, with the file's truth as its model and a server for its calls where there are such."""

    url: str
    master_key: str
    messages_per_minute: int
    truth: oracle.Oracle | None
    rows_server: rows.RowsServer | None

    def play(self, service: importer.Service, kind: str) -> look_ups.Round:
        """Import the service with this kind of look-up and play all its dialogues; raises ApiRefused."""
        sections = {
            stage.stage_name: look_ups.data_retrieval(kind, stage, self._address(service, stage))
            for stage in service.stages
        }
        master = importer.Api(self.url, self.master_key)
        business = importer.import_service(master, service, self.messages_per_minute, sections)
        if business.note:
            print(f"{service.service}: {business.note}")
        api = importer.Api(self.url, business.api_key)
        products = look_ups.load_products(api, service) if kind in look_ups.QUERIES else []
        played: list[scores.PlayedTurn] = []
        for dialogue in service.dialogues:
            played += self._play_dialogue(api, business.business_id, service, dialogue)
        print(f"{service.service}: {len(service.dialogues)} dialogues played, look-ups: {kind}")
        return look_ups.Round(kind, products, played)

    def _address(self, service: importer.Service, stage: importer.Stage) -> str:
        return self.rows_server.url(service.service, stage.stage_name) if self.rows_server else ""

    def _play_dialogue(
        self, api: importer.Api, business_id: str, service: importer.Service, dialogue: importer.Dialogue
    ) -> Iterator[scores.PlayedTurn]:
        """Play one dialogue as a new customer; all its turns share the first reply's conversation."""
        request: dict[str, Any] = {"business_id": business_id, "user_id": str(uuid.uuid4())}
        stage_before: str | None = None
        for number, turn in enumerate(dialogue.turns, start=1):
            answer, waits, calls = self._play_turn(api, {**request, "message": turn.user}, turn)
            asked = self._asked(api, answer)
            one = scores.PlayedTurn(
                service, dialogue.dialogue_id, number, turn, answer, stage_before, waits, calls, asked
            )
            if one.reply.get("conversation_id"):
                request.setdefault("conversation_id", one.reply["conversation_id"])
            stage_before = one.stage_name or stage_before
            yield one

    def _play_turn(
        self, api: importer.Api, request: Mapping[str, Any], turn: importer.Turn
    ) -> tuple[importer.Answer, int, oracle.Calls | None]:
        """The answer to one message, how often the rate limit made it wait, and the model calls."""
        if self.rows_server:
            self.rows_server.begin(turn.results)
        if self.truth:
            self.truth.begin(turn)
        answer, waits = _send(api, request)
        return answer, waits, self.truth.end() if self.truth else None

    def _asked(self, api: importer.Api, answer: importer.Answer) -> tuple[Any, ...]:
        """What the turn just played has looked up: calls as they came in, then queries as its ledger has them."""
        if self.rows_server is None:
            return ()
        calls = self.rows_server.end()
        if answer.status != 200:
            return calls
        ledger = api.request("GET", f"/api/v1/turns/{answer.body['turn_id']}")
        return (*calls, *look_ups.queries(ledger))


def _send(api: importer.Api, body: Mapping[str, Any]) -> tuple[importer.Answer, int]:
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    answer = api.request("POST", "/api/v1/messages", body, headers)
    waits = 0
    while answer.status == 429 and waits < MOST_WAITS:
        seconds = answer.headers.get("Retry-After", "")
        if not seconds.isdigit() or int(seconds) > LONGEST_WAIT_SECONDS:
            break
        waits += 1
        time.sleep(int(seconds))
        answer = api.request("POST", "/api/v1/messages", body, headers)
    return answer, waits
