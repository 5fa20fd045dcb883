"""The dashboard as Grafana reads it: panels that do not overlap, queries over metrics that there are."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from penstock.telemetry.metric_table import PRODUCER, TRAINER

PATH = Path(__file__).resolve().parents[2] / "deploy" / "grafana" / "penstock.json"
TYPES = {metric.name: metric.type for metric in (*TRAINER, *PRODUCER)}
ENDS = ("_bucket", "_sum", "_count")
NOT_SHOWN = {"penstock_run_info", "penstock_producer_info", "penstock_matrix_flops_per_second"}
NOT_SHOWN |= {"penstock_producer_matrix_flops_per_second", "penstock_groups_received_total"}
NOT_SHOWN |= {"penstock_producer_groups_total", "penstock_producer_images_rejected_total"}
"""What is a fact and no curve, or the same curve in other units; of rejected images the trainer tells."""


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(PATH.read_text())
    return found


def queries(dashboard: dict[str, Any]) -> dict[str, str]:
    """Every query of every panel, by the panel's title and the query's letter."""
    return {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
    }


def _metric(name: str) -> str:
    """The metric that a sample is of."""
    return next((name.removesuffix(end) for end in ENDS if name.removesuffix(end) in TYPES), name)


def test_panels_have_numbers_of_their_own_a_reason_and_a_place_of_their_own(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    assert all(panel["description"] for panel in panels if panel["type"] != "row")
    places = [panel["gridPos"] for panel in panels]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in itertools.combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)


def test_queries_name_metrics_that_there_are_and_nearly_all_of_them(dashboard: dict[str, Any]) -> None:
    named = {_metric(name) for query in queries(dashboard).values() for name in re.findall(r"\bpenstock_\w+", query)}
    assert named | NOT_SHOWN == set(TYPES)
    assert not named & NOT_SHOWN


def test_counters_are_shown_by_their_rate_and_nothing_else_is(dashboard: dict[str, Any]) -> None:
    for title, query in queries(dashboard).items():
        for before, name, braces in re.findall(r"(\w*)\(?(penstock_\w+)\{[^}]*\}(\[?)", query):
            kind = TYPES[_metric(name)]
            assert (before in ("rate", "increase")) is (kind != "gauge"), f"{title}: {name}"
            assert bool(braces) is (kind != "gauge"), f"{title}: {name}"


def test_the_data_source_and_what_is_shown_of_a_fleet_can_be_chosen(dashboard: dict[str, Any]) -> None:
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert variables == {"datasource", "job", "rank", "producer"}
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] == panel["datasource"]["uid"] == "${datasource}"
    for title, query in queries(dashboard).items():
        for selector in re.findall(r"(?:penstock|process)_\w+\{([^}]*)\}", query):
            assert 'job=~"$job"' in selector, title
