"""What a rank says of itself, against what producers in the test's hand have done."""

from collections.abc import Iterator
from dataclasses import replace
from math import isnan
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from penstock.consumer import stream as stream_module
from penstock.consumer.filter_counts import FilterCounts
from penstock.consumer.group import Group
from penstock.consumer.prefetch import BatchesLook, Prefetcher
from penstock.consumer.record import Record
from penstock.consumer.run_folder import RunFolder
from penstock.consumer.stream import GroupStream
from penstock.consumer.watching.metrics import RankMetrics
from penstock.consumer.watching.observed import Observed
from penstock.protocol.fleet import PeerState
from penstock.protocol.ticket_table import TicketState
from penstock.telemetry.metric_table import TRAINER
from penstock.telemetry.recorder import Recorder
from tests.consumer.stream_bench import MANIFEST, RECIPE, StreamBench, until
from tests.consumer.tiny_training import tiny_config
from tests.protocol.samples import a_ticket


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[StreamBench]:
    with StreamBench() as made:
        yield made
        monkeypatch.setattr(stream_module, "_FAREWELL_S", 0.0)  # these producers answer no BYE


class Scraped:
    """A rank whose metrics can be read: two ranks, two groups of two images a step between them."""

    def __init__(self, stream: GroupStream, record: Record | None = None, first_step: int = 0, rank: int = 1) -> None:
        self._rank = rank
        self.observed = Observed(
            config=tiny_config("stablerep", groups=4, images=2, max_steps=100),
            folder=RunFolder(Path("runs/x"), "1234abcd", 5),
            rank=rank,
            world_size=2,
            recorder=Recorder(),
            stream=stream,
            record=record or Record(),
            steps=first_step,
            first_step=first_step,
        )
        self._registry = CollectorRegistry()
        self._registry.register(RankMetrics(self.observed).reading)

    def value(self, name: str, **labels: str) -> float | None:
        return self._registry.get_sample_value(name, {"rank": str(self._rank)} | labels)

    def by(self, label: str, name: str) -> dict[str, float]:
        (family,) = [f for f in self._registry.collect() if name in (f.name, f"{f.name}_total")]
        return {sample.labels[label]: sample.value for sample in family.samples}


def test_the_stream_s_figures_are_those_of_what_has_come(bench: StreamBench) -> None:
    stream = bench.start(window=6)
    scraped = Scraped(stream)
    producer = bench.join(stream)
    for _ in range(4):
        producer.make()
    stream.get()
    until(lambda: stream.look().held == 3)
    made = 4 * RECIPE.num_images
    assert scraped.value("penstock_images_received_total") == made
    assert scraped.value("penstock_groups_received_total") == 4
    assert scraped.value("penstock_received_bytes_total") == 4 * RECIPE.nbytes
    assert scraped.value("penstock_window_groups") == 6
    assert scraped.value("penstock_window_bytes") == 1 << 30
    # Of the window of 6, three are here and three are asked for.
    assert scraped.value("penstock_arrived_groups") == 3
    assert scraped.value("penstock_arrived_bytes") == 3 * RECIPE.nbytes
    assert scraped.value("penstock_reserved_bytes") == 6 * RECIPE.nbytes
    assert scraped.value("penstock_held_tickets") == 3
    assert scraped.value("penstock_credit_groups") == 100
    tickets = scraped.by("state", "penstock_tickets")
    assert tickets == {state.name.lower(): 0 for state in TicketState} | {"issued": 3}
    producers = scraped.by("state", "penstock_producers")
    assert producers == {state.value: 0 for state in PeerState} | {"ready": 1}


def test_what_is_refused_is_counted_by_reason(bench: StreamBench) -> None:
    stream = bench.start()
    scraped = Scraped(stream)
    assert scraped.by("reason", "penstock_messages_rejected_total") == {}
    producer = bench.dial(stream)
    for _ in range(3):
        producer.say_bytes(b"\xc1")
    producer.hello(replace(MANIFEST, model_digest="beef"))
    until(lambda: stream.look().stats.rejected == 4)
    reasons = scraped.by("reason", "penstock_messages_rejected_total")
    assert sum(reasons.values()) == 4
    assert sorted(reasons.values()) == [1, 3]
    assert set(reasons) == set(stream.look().rejects)


def test_counters_count_this_life_and_the_step_counts_all(bench: StreamBench) -> None:
    record = Record(steps_skipped=7)
    scraped = Scraped(bench.start(), record, first_step=40)
    assert scraped.value("penstock_reuse_ratio") is None, "nothing has come yet"
    scraped.observed.steps = 43
    scraped.observed.stepped_at = 1.7e9
    record.steps_skipped = 9
    assert scraped.value("penstock_steps_total") == 3
    assert scraped.value("penstock_step") == 43
    assert scraped.value("penstock_max_steps") == 100
    assert scraped.value("penstock_steps_skipped_total") == 2
    assert scraped.value("penstock_last_step_timestamp_seconds") == 1.7e9
    # Of four groups a step this rank has two, of two images each.
    assert scraped.value("penstock_images_trained_total") == 3 * 2 * 2


def test_reuse_is_uses_per_image(bench: StreamBench) -> None:
    stream = bench.start()
    scraped = Scraped(stream)
    bench.join(stream).make()
    scraped.observed.steps = 5
    assert scraped.value("penstock_reuse_ratio") == 5 * 2 * 2 / RECIPE.num_images


def test_what_is_not_known_yet_is_left_out(bench: StreamBench) -> None:
    scraped = Scraped(bench.stream(), rank=0)
    for name in ("loss", "knn_ratio", "rankme", "flops_total", "reservoir_groups", "data_wait_seconds_total"):
        assert scraped.value(f"penstock_{name}") is None, name
    scraped.observed.loss = 4.0
    scraped.observed.record.knn.append((50, 0.6))
    scraped.observed.record.rankme.append((50, 12.5))
    assert scraped.value("penstock_loss") == 4.0
    assert scraped.value("penstock_knn_ratio") == 0.6
    assert scraped.value("penstock_rankme") == 12.5


def test_a_loss_that_is_no_number_is_said(bench: StreamBench) -> None:
    """The record, which is drawn as a curve, leaves it out."""
    scraped = Scraped(bench.stream(), Record(loss=[(10, 4.0)]))
    scraped.observed.loss = float("nan")
    assert isnan(scraped.value("penstock_loss") or 0)


def test_a_rank_that_evaluates_nothing_does_not_tell_of_what_a_checkpoint_says(bench: StreamBench) -> None:
    scraped = Scraped(bench.stream(), Record(knn=[(50, 0.6)], rankme=[(50, 12.5)]), rank=1)
    assert scraped.value("penstock_knn_ratio") is None
    assert scraped.value("penstock_rankme") is None


def test_durations_and_ages_are_histograms_of_their_own(bench: StreamBench) -> None:
    scraped = Scraped(bench.stream())
    scraped.observed.recorder.observe("step", 2_000_000_000)
    scraped.observed.recorder.observe("sample_age", 200_000_000)
    assert scraped.value("penstock_stage_duration_seconds_sum", stage="step") == 2.0
    assert scraped.value("penstock_stage_duration_seconds_bucket", stage="step", le="3.0") == 1
    assert scraped.value("penstock_stage_duration_seconds_sum", stage="sample_age") is None
    assert scraped.value("penstock_sample_age_seconds_bucket", le="0.3") == 1
    assert scraped.value("penstock_sample_age_seconds_bucket", le="0.1") == 0


def test_arithmetic_is_a_share_of_what_matrix_products_reach(
    bench: StreamBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("penstock.telemetry.metrics.time.monotonic", lambda: now)
    scraped = Scraped(bench.stream())
    scraped.observed.flops_per_step = 3e9
    scraped.observed.matrix_flops_per_s = 1e10
    scraped.observed.steps = 20
    now = 110.0
    assert scraped.value("penstock_flops_total") == 60e9
    assert scraped.value("penstock_matrix_flops_per_second") == 1e10
    assert scraped.value("penstock_flop_utilization_ratio") == pytest.approx(0.6)


def test_batches_tell_of_the_reservoir_the_wait_and_the_filter(bench: StreamBench) -> None:
    scraped = Scraped(bench.stream())
    counts = FilterCounts(0, lambda ticket: -1)
    look = BatchesLook(reservoir_groups=3, reservoir_bytes=900, capacity_groups=8, is_ready=True, wait_s=1.5)
    scraped.observed.batches = cast(Prefetcher, SimpleNamespace(look=lambda: look, filter_counts=counts))
    assert scraped.value("penstock_reservoir_groups") == 3
    assert scraped.value("penstock_reservoir_bytes") == 900
    assert scraped.value("penstock_reservoir_capacity_groups") == 8
    assert scraped.value("penstock_batch_ready") == 1
    assert scraped.value("penstock_data_wait_seconds_total") == 1.5
    ticket = a_ticket(0)
    pixels = np.zeros(ticket.recipe.shape, np.uint8)
    counts.add(Group(ticket, pixels, "ann", MANIFEST, (0, 1), num_made=6, num_unsatisfied=1))
    # Six were made, two of them sent, one of those for want of better ones.
    assert len(pixels) == 2
    outcomes = scraped.by("outcome", "penstock_images_filtered_total")
    assert outcomes == {"kept": 1, "rejected": 4, "unsatisfied": 1}


def test_the_info_names_the_run(bench: StreamBench) -> None:
    scraped = Scraped(bench.stream())
    (sample,) = next(f for f in scraped._registry.collect() if f.name == "penstock_run_info").samples
    assert sample.value == 1
    assert (sample.labels["run_id"], sample.labels["objective"], sample.labels["rank"]) == (
        *("1234abcd", "stablerep"),
        "1",
    )
    assert sample.labels["version"][0].isdigit()


def test_every_metric_of_the_table_is_there_from_the_beginning(bench: StreamBench) -> None:
    scraped = Scraped(bench.stream())
    names = {f.name + ("_total" if f.type == "counter" else "") for f in scraped._registry.collect()}
    assert names == {metric.name for metric in TRAINER}
