"""The rules ring when they should, by promtool's own word; and what an alert says leads somewhere."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from penstock.telemetry.metric_table import PRODUCER, PRODUCER_LABELS, TRAINER, TRAINER_LABELS

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
RULES = FOLDER / "penstock.rules.yaml"
OPERATIONS = ROOT / "docs" / "operations.md"
LABELS = {
    metric.name: {*own, *metric.labels, "job", "instance"}
    for table, own in ((TRAINER, TRAINER_LABELS), (PRODUCER, PRODUCER_LABELS))
    for metric in table
}
"""Of every metric, as a Prometheus that scrapes has it."""

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (make observe, or: apt-get install prometheus)"
)


def alerts() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def _promtool(*arguments: str | Path) -> str:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@needs_promtool
def test_the_configuration_and_its_rules_are_valid() -> None:
    said = _promtool("check", "config", FOLDER / "prometheus.yaml")
    assert f"SUCCESS: {len(alerts())} rules found" in said


@needs_promtool
def test_the_configuration_for_several_machines_is_valid_beside_a_token(tmp_path: Path) -> None:
    for name in ("fleet.yaml", RULES.name):
        shutil.copy(FOLDER / name, tmp_path)
    (tmp_path / "targets").mkdir()
    for side in ("trainer", "producer"):
        (tmp_path / "targets" / f"{side}.yaml").write_text('- targets: ["10.0.0.7:9500"]\n')
    (tmp_path / "metrics.token").write_text("prometheus-knows-it\n")
    assert "SUCCESS" in _promtool("check", "config", tmp_path / "fleet.yaml")


@needs_promtool
def test_every_rule_rings_when_it_should_and_not_when_it_should_not() -> None:
    assert "SUCCESS" in _promtool("test", "rules", RULES.with_name("penstock.rules.test.yaml"))


def test_every_alert_is_tested_where_it_rings_and_where_it_does_not() -> None:
    tests = yaml.safe_load(RULES.with_name("penstock.rules.test.yaml").read_text())["tests"]
    rung = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case.get("exp_alerts")}
    assert rung == set(alerts())


def test_a_rule_names_metrics_that_there_are_and_labels_that_they_have() -> None:
    for name, rule in alerts().items():
        named = re.findall(r"\bpenstock_\w+", rule["expr"])
        assert named, name
        assert set(named) <= set(LABELS), name
        shown = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
        assert shown <= set.intersection(*(LABELS[metric] for metric in named[:1])), name


def test_every_alert_says_what_happened_and_leads_to_what_to_do() -> None:
    sections = set(re.findall(r"^### (\w+)$", OPERATIONS.read_text(), re.MULTILINE))
    for name, rule in alerts().items():
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{name.lower()}"
    assert sections == set(alerts())
