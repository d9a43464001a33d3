"""The demo business of `make run`: made once on an empty database, through the public HTTP API."""

from __future__ import annotations

import json
import shlex
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from api import config_file

MATERIAL = Path(__file__).with_name("demo.json")
SET_UP = Path(__file__).with_name("demo.yaml")
CALL_SECONDS = 30


class CallFailed(Exception):
    """The API answered with an error; the text is its status and body."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status} {text}")
        self.status = status


@dataclass(frozen=True)
class Api:
    """The HTTP API at `base_url`, called with one key."""

    base_url: str
    key: str

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON answer; None when there is no body. Raises CallFailed."""
        request = urllib.request.Request(  # noqa: S310 — our own http address
            f"{self.base_url}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"},
        )
        try:
            # No proxy of the environment stands between a process and its own child.
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(request, timeout=CALL_SECONDS) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            raise CallFailed(error.code, error.read().decode(errors="replace")) from None


@dataclass(frozen=True)
class Demo:
    """What a person needs to talk to the demo business."""

    business_id: str
    business_name: str
    api_key: str

    def curl(self, base_url: str) -> str:
        """A command line that sends the first message."""
        material = _material()
        body = {"business_id": self.business_id, "user_id": material["customer_id"], "message": material["message"]}
        words = ["curl", "-sS", f"{base_url}/api/v1/messages", "-H", f"Authorization: Bearer {self.api_key}"]
        return shlex.join([*words, "-H", "Content-Type: application/json", "-d", json.dumps(body)])


def provide(master: Api, memory: Path) -> Demo | None:
    """The demo business: made when the database is empty, found again through the file `memory`.

    None when the database holds other businesses only. Raises CallFailed.
    """
    businesses = master.call("GET", "/api/v1/businesses?limit=500")
    if not businesses:
        return _remember(memory, _make(master))
    owner_id = _material()["business"]["owner_id"]
    ours = next((business for business in businesses if business["owner_id"] == owner_id), None)
    if ours is None:
        return None
    known = _recall(memory)
    if known is not None and known.business_id == ours["business_id"] and _works(master.base_url, known):
        return known
    key = master.call("POST", f"/api/v1/businesses/{ours['business_id']}/api-keys", {"name": "make run"})
    return _remember(memory, Demo(ours["business_id"], ours["business_name"], key["api_key"]))


def set_up() -> dict[str, Any]:
    """The demo's set-up, as PUT /api/v1/config takes it."""
    document: dict[str, Any] = config_file.parsed(SET_UP.read_bytes())
    return document


def _make(master: Api) -> Demo:
    material = _material()
    business = master.call("POST", "/api/v1/businesses", material["business"])
    business_id = business["business_id"]
    try:
        master.call("PUT", f"/api/v1/config?business_id={business_id}", set_up())
        for order in material["orders"]:
            master.call("POST", "/api/v1/orders", {"business_id": business_id, **order})
    except Exception:
        # Half a demo would look like a finished one on the next run.
        master.call("DELETE", f"/api/v1/businesses/{business_id}")
        raise
    return Demo(business_id, business["business_name"], business["api_key"])


def _works(base_url: str, demo: Demo) -> bool:
    try:
        Api(base_url, demo.api_key).call("GET", f"/api/v1/businesses/{demo.business_id}")
    except CallFailed as problem:
        if problem.status == 401:
            return False
        raise
    return True


def _remember(memory: Path, demo: Demo) -> Demo:
    memory.touch(mode=0o600)
    memory.chmod(0o600)
    memory.write_text(json.dumps(asdict(demo), indent=1) + "\n", encoding="utf-8")
    return demo


def _recall(memory: Path) -> Demo | None:
    try:
        return Demo(**json.loads(memory.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _material() -> dict[str, Any]:
    material: dict[str, Any] = json.loads(MATERIAL.read_text(encoding="utf-8"))
    return material
