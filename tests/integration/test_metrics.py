"""A real run, scraped on both sides: what docs/metrics.md promises, and what the run says of itself elsewhere."""

import contextlib
import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.core import Metric as Read
from prometheus_client.parser import text_string_to_metric_families

from penstock.consumer.ledger_reader import read_steps
from penstock.telemetry.metric_table import PRODUCER, PRODUCER_LABELS, TRAINER, TRAINER_LABELS, Metric, rows
from tests.integration.test_run import SHORT, Program
from tests.integration.test_run import TRAINER as COMMAND

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "metrics.md").read_text()
IMAGES, GROUPS, STEPS = 4, 8, 20
GROUP_BYTES = IMAGES * 32 * 32 * 3

SIDES = {"trainer": (TRAINER, TRAINER_LABELS), "producer": (PRODUCER, PRODUCER_LABELS)}
Families = dict[str, Read]


def _scrape(url: str) -> Families:
    with urllib.request.urlopen(url, timeout=20) as answer:
        text = answer.read().decode()
    return {f.name + ("_total" if f.type == "counter" else ""): f for f in text_string_to_metric_families(text)}


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url.replace("/metrics", "/readyz"), timeout=20) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError:
        return False


def _value(families: Families, name: str, **labels: str) -> float:
    family = next(family for own, family in families.items() if name.startswith(own))
    samples = [sample for sample in family.samples if sample.name == name]
    [value] = [sample.value for sample in samples if labels.items() <= sample.labels.items()]
    return value


@dataclass
class Scraped:
    """A run that has ended, and the last that each side has said before."""

    run_dir: Path
    program: Program
    trainer: Families = field(default_factory=dict)
    producer: Families = field(default_factory=dict)
    pairs: list[tuple[float, float]] = field(default_factory=list)
    """Images that had been received, and, read just after, those that had been made."""
    ready: list[tuple[bool, ...]] = field(default_factory=list)
    """What trainer and producer have said to probes of their readiness."""

    @property
    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.run_dir / "summary.json").read_text())
        return found


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    run_dir = tmp_path_factory.mktemp("scraped") / "run"
    command = [*COMMAND, *SHORT, "--run-dir", str(run_dir), "--metrics", "0", "--max-steps", str(STEPS)]
    program = Program([*command, "--evaluation.every-steps", "10"], tmp_path_factory.mktemp("program") / "output.log")
    try:
        log = run_dir / "producer-0.log"
        program.until(lambda: log.exists() and "metrics at " in log.read_text())
        urls = [re.findall(r"metrics at (\S+)", text)[0] for text in (program.output, log.read_text())]
        last = Scraped(run_dir, program)
        # The trainer answers until its process ends, which is after its last step.
        while program.process.poll() is None:
            time.sleep(0.2)
            with contextlib.suppress(OSError, http.client.HTTPException):
                last.ready.append(tuple(_is_ready(url) for url in urls))
                trainer, producer = (_scrape(url) for url in urls)
                if "penstock_step" not in trainer or "penstock_producer_info" not in producer:
                    continue  # it is still loading
                last.trainer, last.producer = trainer, producer
                received = _value(last.trainer, "penstock_images_received_total")
                last.pairs.append((received, _value(last.producer, "penstock_producer_images_total")))
        assert program.end() == 0, program.output
        yield last
    finally:
        program.kill()


@pytest.mark.slow
@pytest.mark.parametrize("side", SIDES)
def test_a_run_serves_the_metrics_of_the_table_and_no_others(scraped: Scraped, side: str) -> None:
    table, own = SIDES[side]
    families: Families = getattr(scraped, side)
    served = {name: family.type for name, family in families.items() if not name.startswith("process_")}
    assert served == {metric.name: metric.type for metric in table}
    for metric in table:
        expected = {*own, *metric.labels}
        for sample in families[metric.name].samples:
            assert set(sample.labels) - {"le"} == expected, sample
    assert "process_resident_memory_bytes" in families


@pytest.mark.slow
@pytest.mark.parametrize("side", SIDES)
def test_every_metric_of_a_run_has_values_but_for_what_it_does_not_do(scraped: Scraped, side: str) -> None:
    families: Families = getattr(scraped, side)
    absent = {
        name for name, family in families.items() if not family.samples and not name.startswith("process_")
    }  # no filter, nothing refused; the arithmetic of the trainer is known only where somebody counts it
    rare = {"penstock_images_filtered_total", "penstock_messages_rejected_total"}
    rare |= {"penstock_producer_messages_rejected_total", "penstock_connections_refused_total"}
    assert {name for name in absent if "flop" not in name} <= rare


@pytest.mark.slow
def test_the_figures_agree_with_what_the_run_leaves_behind(scraped: Scraped) -> None:
    families, summary = scraped.trainer, scraped.summary
    assert _value(families, "penstock_run_info", run_id=summary["run_id"], objective=summary["objective"]) == 1
    assert _value(families, "penstock_steps_total") == STEPS == summary["steps"] == len(read_steps(scraped.run_dir))
    assert _value(families, "penstock_max_steps") == STEPS
    assert _value(families, "penstock_images_trained_total") == STEPS * GROUPS * IMAGES == summary["images_trained"]
    # What comes after the last step is in no summary.
    received = _value(families, "penstock_images_received_total")
    assert summary["images_generated"] <= received <= summary["images_generated"] + 16 * IMAGES
    assert _value(families, "penstock_groups_received_total") == received / IMAGES
    assert _value(families, "penstock_received_bytes_total") == received / IMAGES * GROUP_BYTES
    assert _value(families, "penstock_reservoir_bytes") == GROUP_BYTES * _value(families, "penstock_reservoir_groups")
    assert _value(families, "penstock_reservoir_capacity_groups") == 16
    assert _value(families, "penstock_reuse_ratio") == pytest.approx(summary["images_trained"] / received)
    assert _value(families, "penstock_stage_duration_seconds_count", stage="step") == STEPS
    assert _value(families, "penstock_sample_age_seconds_count") == STEPS * GROUPS
    wait = _value(families, "penstock_stage_duration_seconds_sum", stage="wait_batch")
    assert _value(families, "penstock_data_wait_seconds_total") == pytest.approx(wait)
    assert 0 < _value(families, "penstock_knn_ratio") < 1
    started = _value(families, "process_start_time_seconds")
    assert started < _value(families, "penstock_last_step_timestamp_seconds") < started + summary["seconds"] + 60


@pytest.mark.slow
def test_each_side_is_ready_once_it_is_there_for_the_other(scraped: Scraped) -> None:
    for said in zip(*scraped.ready, strict=True):
        assert not said[0], "it is still loading"
        assert any(said)


@pytest.mark.slow
def test_the_producer_has_made_what_the_trainer_has_received(scraped: Scraped) -> None:
    assert len(scraped.pairs) > 3
    assert all(made >= received for received, made in scraped.pairs)
    families = scraped.producer
    assert _value(families, "penstock_producer_info", model="tiny", producer="local-0") == 1
    images = _value(families, "penstock_producer_images_total")
    assert images >= scraped.summary["images_generated"] > 0
    groups = _value(families, "penstock_producer_groups_total")
    assert images - 16 * IMAGES <= groups * IMAGES <= images, "a batch is counted when it is made, its groups then"
    assert _value(families, "penstock_producer_stage_duration_seconds_count", stage="encode") >= groups - 16
    assert 0 < _value(families, "penstock_producer_busy_seconds_total") < scraped.summary["seconds"]
    assert 0 < _value(families, "penstock_producer_flop_utilization_ratio") < 1


@pytest.mark.slow
def test_every_stage_is_explained(scraped: Scraped) -> None:
    for side in SIDES:
        section = PAGE.split(f"## Stages of a {side}")[1].split("\n## ")[0]
        explained = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
        name = "penstock_stage_duration_seconds" if side == "trainer" else "penstock_producer_stage_duration_seconds"
        seen = {sample.labels["stage"] for sample in getattr(scraped, side)[name].samples}
        assert seen <= explained
        assert len(seen) >= 6


@pytest.mark.parametrize("side", SIDES)
def test_the_page_shows_the_table_as_it_is(side: str) -> None:
    table, own = SIDES[side]
    assert "\n".join(rows(table, own)) in PAGE


def test_the_page_s_queries_name_metrics_that_there_are() -> None:
    known = {metric.name for table, _ in SIDES.values() for metric in table}
    known |= {f"{name}_{end}" for name in known for end in ("bucket", "sum", "count")}
    queries = "\n".join(re.findall(r"```promql\n(.*?)```", PAGE, re.DOTALL))
    named = set(re.findall(r"\bpenstock_\w+", queries))
    assert named
    assert named <= known


def test_a_table_s_row_names_metric_type_labels_and_meaning() -> None:
    metric = Metric("penstock_foxes_total", "counter", "Foxes seen.", ("colour",))
    assert list(rows([metric], ["rank"]))[2:] == [
        "| `penstock_foxes_total` | counter | `rank`, `colour` | Foxes seen. |"
    ]
