"""The house keeps its own rules: who imports whom, what every route and error has, and what must agree."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import dotenv
import pytest
from flask import Flask

import schemas
from api import errors
from api.settings import from_environment
from tests.conftest import ENVIRONMENT

PROJECT = Path(__file__).resolve().parent.parent
ROOMS = {
    "app": {"api", "auth", "nlp", "schemas", "db"},
    "api": {"api", "auth", "nlp", "schemas", "db"},
    "auth": {"db"},
    "nlp": {"nlp", "db", "json_fit", "json_text"},
    "db": {"db", "json_text"},
    "json_fit": set(),
    "json_text": set(),
    "schemas": {"schemas", "json_fit"},
}
# Packages that only some places may import: the place is a folder or a file.
RESERVED = {
    "flask": ("app.py", "api/", "auth.py"),
    "psycopg2": ("db/",),
    "openai": ("nlp/llm.py",),
    "redis": ("db/redis_buckets.py",),
}
# Exceptions that no caller of the HTTP API can meet as themselves.
INSIDE = {
    "BadSetting": "stops the start",
    "StartFailed": "stops the start",
    "CallFailed": "of the launcher's own calls",
    "ModelAnswerInvalid": "answered by asking again, then by a safe default",
    "Fenced": "another worker's answer is fetched",
    "Interrupted": "the turn is tried again",
    "LookUpFailed": "told to the reply as retrieved.error",
    "Undecryptable": "data that fits no key is a fault of ours: a 500, with its stack trace in the log",
}
COMPUTED = {"agent_list", "product_list", "service_list"}
HOUSE = [
    PROJECT / "app.py",
    PROJECT / "auth.py",
    PROJECT / "json_fit.py",
    PROJECT / "json_text.py",
    *sorted(path for room in ROOMS for path in (PROJECT / room).rglob("*.py")),
]
SOURCES = [*HOUSE, *sorted((PROJECT / "bench").rglob("*.py"))]


def _place(path: Path) -> str:
    return path.relative_to(PROJECT).as_posix()


def _room(path: Path) -> str:
    return path.relative_to(PROJECT).parts[0].removesuffix(".py")


def _nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def _imports(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Each imported module, with the names taken from it."""
    for node in _nodes(path):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{_place(path)}: a relative import"
            yield node.module or "", [alias.name for alias in node.names]


def _modules(room: str) -> Iterator[ModuleType]:
    for path in (path for path in HOUSE if _room(path) == room):
        name = _place(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        yield importlib.import_module(name)


def test_imports_run_one_way() -> None:
    wrong = [
        f"{_place(path)} imports {module}"
        for path in HOUSE
        for module, _ in _imports(path)
        if module.split(".")[0] in ROOMS and module.split(".")[0] not in ROOMS[_room(path)]
    ]
    assert wrong == []


def test_thinking_takes_only_nouns_from_remembering() -> None:
    taken = [
        (module, name)
        for path in HOUSE
        if _room(path) == "nlp"
        for module, names in _imports(path)
        if module.split(".")[0] == "db"
        for name in names or [""]
    ]
    assert ("db.stages", "Stage") in taken
    assert [
        each for each in taken if not dataclasses.is_dataclass(getattr(importlib.import_module(each[0]), each[1]))
    ] == []


@pytest.mark.parametrize("package", RESERVED)
def test_a_package_stays_in_its_room(package: str) -> None:
    users = {
        _place(path) for path in HOUSE for module, _ in _imports(path) if re.match(rf"{package}\b|{package}_", module)
    }
    assert users
    assert [user for user in sorted(users) if not user.startswith(RESERVED[package])] == []


def test_only_the_app_reads_the_environment() -> None:
    readers = {
        _place(path)
        for path in HOUSE
        for node in _nodes(path)
        if (isinstance(node, ast.Attribute) and re.fullmatch(r"os\.(environb?|getenvb?)", ast.unparse(node)))
        or (isinstance(node, ast.ImportFrom) and node.module == "os")
    }
    assert readers == {"app.py"}


def test_every_route_says_who_may_call_it_and_what_it_promises(flask_app: Flask) -> None:
    endpoints = {rule.endpoint for rule in flask_app.url_map.iter_rules()}
    lacking = [
        (endpoint, mark)
        for endpoint in sorted(endpoints)
        for mark in ("access", "contract")
        if not hasattr(flask_app.view_functions[endpoint], mark) and not endpoint.startswith("swagger_ui.")
    ]
    assert lacking == []


def test_every_error_is_in_the_table() -> None:
    modules = [
        *_modules("api"),
        *_modules("auth"),
        importlib.import_module("db"),
        importlib.import_module("nlp.errors"),
    ]
    found = {
        kind
        for module in modules
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, Exception) and kind.__module__.split(".")[0] in ROOMS
    }
    without_row = {kind.__name__ for kind in found if not issubclass(kind, tuple(errors.TABLE))}
    assert without_row == set(INSIDE)


def test_row_classes_are_their_columns() -> None:
    checked = 0
    for module in _modules("db"):
        for name, columns in vars(module).items():
            if not re.fullmatch(r"(\w+_)?COLUMNS", name):
                continue
            wanted = str(columns).split(", ")
            classes = [kind for _, kind in inspect.getmembers(module, dataclasses.is_dataclass)]
            fields = [[each.name for each in dataclasses.fields(kind)] for kind in classes]
            extra = COMPUTED | set(getattr(module, "_SECRET", ()))
            assert any(row[: len(wanted)] == wanted and set(row[len(wanted) :]) <= extra for row in fields), module
            checked += 1
    assert checked >= 9


def test_settings_are_what_env_example_says() -> None:
    given = {name: value or "" for name, value in dotenv.dotenv_values(PROJECT / ".env.example").items()}
    needed = {name: value for name, value in ENVIRONMENT.items() if name in {"ICMP_API_KEY", "ENCRYPTION_KEY"}}
    asked: set[str] = set()

    class Asking(dict[str, str]):
        def get(self, name: str, default: Any = None) -> Any:
            asked.add(name)
            return super().get(name, default)

    for chosen in ({"DATABASE_URL": "postgresql:///icmp"}, {"DB_HOST": "db.example", "OPENAI_API_KEY": "sk-none"}):
        bare: Mapping[str, str] = Asking(needed | chosen)
        assert from_environment(bare) == from_environment(given | needed | chosen)
    assert asked == set(given)


def test_every_schema_has_an_example_that_is_valid() -> None:
    for name in schemas.names():
        examples = schemas.document(name).get("examples", [])
        assert examples, f"schemas/{name}.json has no example"
        for example in examples:
            faults = [
                f"{name} {fault.json_path}: {fault.message}" for fault in schemas.validator(name).iter_errors(example)
            ]
            assert faults == []


def test_files_and_functions_stay_small() -> None:
    too_long = [_place(path) for path in SOURCES if len(path.read_text(encoding="utf-8").splitlines()) > 300]
    too_long += [
        f"{_place(path)}: {node.name}"
        for path in SOURCES
        for node in _nodes(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or 0) - node.lineno >= 40
    ]
    assert too_long == []


def test_every_file_says_what_it_is_for_and_nothing_is_left_for_later() -> None:
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        assert ast.get_docstring(ast.parse(text)), f"{_place(path)} opens without a sentence"
        assert not re.search(r"\b(TODO|FIXME|XXX)\b", text), _place(path)
