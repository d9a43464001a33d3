"""What Grafana, Prometheus and Elasticsearch are given fits what the app says."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Histogram
from prometheus_client.metrics import MetricWrapperBase

from api import logs, metrics

PROJECT = Path(__file__).resolve().parents[2]
DEPLOY = PROJECT / "deploy"
# The names of the contract for the log, and of a request's line.
FIELDS = {
    *("timestamp", "level", "source", "message", "request_id", "business_id", "user_id", "conversation_id"),
    *("error_code", "duration_ms", "exc_info", "method", "route", "status", "trace_id"),
}


def _series() -> dict[str, set[str]]:
    """Every name that /metrics may hold, with its labels."""
    found: dict[str, set[str]] = {}
    for metric in (each for each in vars(metrics).values() if isinstance(each, MetricWrapperBase)):
        labels = set(metric._labelnames)
        if isinstance(metric, Histogram):
            found |= {f"{metric._name}_{end}": labels | ({"le"} if end == "bucket" else set()) for end in _ENDS}
        else:
            name = metric._name
            found[f"{name}_total" if metric._type == "counter" else name] = labels
    return found


_ENDS = ("bucket", "sum", "count")


def _dashboard() -> Any:
    return json.loads((DEPLOY / "grafana" / "dashboard.json").read_text(encoding="utf-8"))


def _rules() -> list[Mapping[str, Any]]:
    [group] = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    return list(group["rules"])


def _expressions() -> list[str]:
    panels = [target["expr"] for panel in _dashboard()["panels"] for target in panel["targets"]]
    return [*panels, *(rule["expr"] for rule in _rules())]


@pytest.mark.parametrize("expression", _expressions())
def test_an_expression_asks_for_what_is_there(expression: str) -> None:
    names = set(re.findall(r"\bicmp_\w+", expression))
    assert names or "up{" in expression
    known = _series()
    assert names <= set(known)
    asked = set(re.findall(r"(\w+)\s*=~?\s*\"", expression))
    for grouped in re.findall(r"by \(([^)]*)\)", expression):
        asked |= {label.strip() for label in grouped.split(",")}
    assert asked - {"job"} <= {label for name in names for label in known[name]}
    assert expression.count("(") == expression.count(")")


def test_every_metric_is_on_the_dashboard() -> None:
    shown = set(re.findall(r"\bicmp_\w+", " ".join(_expressions())))
    hidden = {name.removesuffix("_bucket") for name in _series() if not name.endswith(("_sum", "_count"))}
    assert {name for name in hidden if name not in shown and f"{name}_bucket" not in shown} == set()


def test_the_dashboard_fits_its_provisioning_and_itself() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    sources = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text(encoding="utf-8"))
    [source] = sources["datasources"]
    panels = _dashboard()["panels"]
    assert {panel["datasource"]["uid"] for panel in panels} == {source["uid"]}
    assert len({panel["id"] for panel in panels}) == len(panels) >= 15
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24
    assert yaml.safe_load((provisioning / "dashboards" / "icmp.yml").read_text(encoding="utf-8"))["providers"]


def test_legends_use_labels_that_are_there() -> None:
    for target in (target for panel in _dashboard()["panels"] for target in panel["targets"]):
        grouped = {
            label.strip() for group in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in group.split(",")
        }
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= grouped, target


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    rules = _rules()
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 6
    for rule in rules:
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert set(rule["annotations"]) == {"summary", "action"}
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    assert config["rule_files"] == ["alerts.yml"]
    assert config["scrape_configs"][0]["authorization"]["type"] == "Bearer"


def _renamed() -> dict[str, str]:
    """Field → ECS name, as the pipeline does it."""
    pipeline = json.loads((DEPLOY / "elasticsearch" / "ingest-pipeline.json").read_text(encoding="utf-8"))
    renamed = {"message": "message"}
    for processor in pipeline["processors"]:
        [(kind, options)] = processor.items()
        if kind in {"rename", "date"}:
            renamed[options["field"]] = options["target_field"]
        elif kind == "script":
            [(field, target)] = re.findall(r"ctx\.(event\.\w+) = Math\.round\(ctx\.(\w+)", options["source"])
            renamed[target] = field
    return renamed


def test_the_pipeline_renames_what_the_page_on_logs_promises() -> None:
    page = (PROJECT / "docs" / "logs.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| `(\w+)` \| `([\w.@]+)` \|", page, re.MULTILINE))
    assert table == _renamed()
    assert set(table) == FIELDS


def test_the_fields_are_those_of_a_line() -> None:
    known = {"trace_id": "t"}
    assert set(logs.ids(_Known(known))) | {"timestamp", "level", "source", "message"} <= FIELDS


class _Known(dict[str, Any]):
    """Ids as flask.g offers them."""

    trace_id = "t"


def test_the_index_template_uses_the_pipeline_and_fits_the_default_index() -> None:
    template = json.loads((DEPLOY / "elasticsearch" / "index-template.json").read_text(encoding="utf-8"))
    page = (PROJECT / "docs" / "logs.md").read_text(encoding="utf-8")
    assert f"_ingest/pipeline/{template['template']['settings']['index.default_pipeline']}" in page
    [pattern] = template["index_patterns"]
    assert re.fullmatch(pattern.replace("*", ".*"), "logs-icmp-default")
