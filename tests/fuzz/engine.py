"""Made-up requests over the whole OpenAPI document, each answer held against the document."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, cast

import hypothesis
import requests
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis.errors import Unsatisfiable
from schemathesis import checks
from schemathesis.config import GenerationConfig
from schemathesis.core.failures import FailureGroup
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks as promised

from tests.api import tenants
from tests.conftest import MASTER_KEY, Client

AnyCase = schemathesis.Case[Any]
CHECKS = [
    checks.not_a_server_error,
    promised.status_code_conformance,
    promised.content_type_conformance,
    promised.response_headers_conformance,
    promised.response_schema_conformance,
]
ERROR_FIELDS = {"error_code", "message", "details", "remediation", "request_id"}
# What would tell of the inside; none of it is in a request unless the request made it up.
INSIDE = ("Traceback (most", "psycopg2", "site-packages", 'File "/', "icmp_app", "icmp_lookup", "werkzeug.", "SELECT ")
OWN_IDS = 0.8  # of the ids in a request are those of real objects
SECONDS = 60


class Broken(AssertionError):
    """An answer that the document does not promise; the text tells how to repeat it."""


@dataclass
class Fuzz:
    """One run: for every operation `examples` well-formed and as many malformed requests, by a business and by the
    master in turn. Same seed, same document: same requests, but for the ids of objects, which are new in every run."""

    document: dict[str, Any]
    port: int
    seed: int
    examples: int
    only: str = ""
    keep_going: bool = False
    statuses: Counter[int] = field(default_factory=Counter)
    faults: dict[str, str] = field(default_factory=dict)
    reached: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        checks.load_all_checks()
        self._schema = schemathesis.openapi.from_dict(_without_defaults(self.document))
        self._master = Client(self.port, MASTER_KEY)
        self._session = requests.Session()
        self._world = tenants.furnished(self._master)

    @property
    def cases(self) -> int:
        """How many requests were answered."""
        return self.statuses.total()

    def run(self, *, with_edges: bool = False) -> None:
        """Every operation, those that take away last; `with_edges` adds schemathesis' own list of edge cases.
        Raises Broken at the first fault unless it is to keep going."""
        operations = [cast(Any, found).ok() for found in self._schema.get_all_operations()]
        for operation in sorted(operations, key=_takes_away):
            if self.only not in operation.label:
                continue
            for mode in GenerationMode:
                self._made_up(operation, mode)
            if with_edges:
                edges = self._schema.iter_coverage_cases(
                    operation, generation_modes=list(GenerationMode), generation_config=GenerationConfig()
                )
                for case in edges:
                    self._exchange(case)

    def _made_up(self, operation: Any, mode: GenerationMode) -> None:
        @hypothesis.seed(self.seed)
        @hypothesis.settings(
            max_examples=self.examples,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @hypothesis.given(operation.as_strategy(generation_mode=mode))
        def send(case: AnyCase) -> None:
            self._exchange(case)

        try:
            send()
        except Unsatisfiable:
            # Nothing can be malformed where nothing is taken.
            assert mode is GenerationMode.NEGATIVE, operation.label

    def _exchange(self, case: AnyCase) -> None:
        caller = ("business", "master")[self.cases % 2]
        label = f"{case.method} {case.operation.path}"
        self._name_real_objects(case, random.Random(f"{self.seed} {label} {self.cases}"))
        key = MASTER_KEY if caller == "master" else self._world.client.key
        response = case.call(
            f"http://127.0.0.1:{self.port}",
            session=self._session,
            headers={"Authorization": f"Bearer {key}", "Connection": "close"},
            timeout=SECONDS,
            allow_redirects=False,
        )
        self.statuses[response.status_code] += 1
        if response.status_code < 400 and case.method == case.operation.method.upper():
            self.reached.add(label)
        try:
            case.validate_response(response, checks=list(CHECKS))
            _check_error(response)
        except (FailureGroup, AssertionError) as fault:
            self._tell(label, caller, fault)
        if response.status_code == 401 and caller == "business":
            self._world = tenants.furnished(self._master)  # it took away its own key

    def _name_real_objects(self, case: AnyCase, dice: random.Random) -> None:
        ids = self._world.ids
        if case.method == "DELETE" and case.operation.path.endswith("/{business_id}"):
            return
        for place in (case.path_parameters, case.query):
            for name in sorted((place or {}).keys() & ids.keys()):
                if dice.random() < OWN_IDS:
                    place[name] = ids[name]
        if "business_id" not in (case.path_parameters or {}) and dice.random() < OWN_IDS and _may_name(case):
            case.query = {**(case.query or {}), "business_id": ids["business_id"]}
        if isinstance(case.body, dict):
            case.body = _renamed(case.body, ids, dice)

    def _tell(self, label: str, caller: str, fault: BaseException) -> None:
        told = f"{label} by the {caller}, seed {self.seed}, {self.examples} examples: {fault}"
        if not self.keep_going:
            again = f"make fuzz SEED={self.seed} EXAMPLES={self.examples} ONLY='{label}'"
            raise Broken(f"{told}\nThe whole of it once more: {again}") from None
        self.faults.setdefault(f"{label} {_kind(fault)}", told)


def _kind(fault: BaseException) -> str:
    kinds = fault.exceptions if isinstance(fault, FailureGroup) else [fault]
    return " ".join(sorted({f"{type(each).__name__} {str(each)[:60]}" for each in kinds}))


def _without_defaults(document: dict[str, Any]) -> dict[str, Any]:
    """Every status must be promised by its number: "any other error" would allow all of them."""
    return document | {
        "paths": {
            path: {method: operation | {"responses": _numbered(operation)} for method, operation in methods.items()}
            for path, methods in document["paths"].items()
        }
    }


def _numbered(operation: dict[str, Any]) -> dict[str, Any]:
    return {status: response for status, response in operation["responses"].items() if status != "default"}


def _takes_away(operation: Any) -> tuple[bool, str]:
    return operation.method.upper() in {"PUT", "DELETE"}, operation.label


def _may_name(case: AnyCase) -> bool:
    return any(parameter.name == "business_id" for parameter in case.operation.query)


def _renamed(value: Any, ids: dict[str, str], dice: random.Random) -> Any:
    if isinstance(value, dict):
        return {
            name: ids[name] if name in ids and isinstance(item, str) and dice.random() < OWN_IDS
            else _renamed(item, ids, dice)
            for name, item in value.items()
        }  # fmt: skip
    return [_renamed(item, ids, dice) for item in value] if isinstance(value, list) else value


def _check_error(response: Any) -> None:
    """What the document cannot say: the five fields, the id of the request, and nothing of the inside."""
    request_id = response.headers.get("x-request-id")
    assert request_id, "no X-Request-ID"
    if response.status_code < 400 or response.request.method == "HEAD":
        return
    body = response.json()
    assert set(body) == ERROR_FIELDS, f"an error of another shape: {sorted(body)}"
    assert body["request_id"] == request_id[0], "two ids for one request"
    sent = f"{response.request.url} {response.request.body!r}"
    assert [word for word in INSIDE if word in response.text and word not in sent] == [], "tells of the inside"
