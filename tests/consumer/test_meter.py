"""The meter: a run is told as a whole, however many lives it had."""

import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from penstock.consumer.meter import Meter, Totals
from penstock.consumer.record import Record


class _Alone:
    """What the meter needs of an Accelerator with one rank."""

    num_processes = 1
    device = torch.device("cpu")

    def reduce(self, values: torch.Tensor, reduction: str) -> torch.Tensor:
        return values


def _totals(monkeypatch: pytest.MonkeyPatch, earlier: Totals) -> Totals:
    """A life of 100 s: the loop begins after 20 s and 8 images, 3 steps of 16 images each; it waits for 10 s."""
    clock = SimpleNamespace(now=1020.0)
    monkeypatch.setattr("time.perf_counter", lambda: clock.now)
    stats = SimpleNamespace(images=8, image_bytes=800, producers=1, producers_seen=2)
    stats.rejected, stats.expired, stats.hedged, stats.quarantined = 1, 2, 3, 4
    batches = SimpleNamespace(wait_s=10.0, groups_by_uses=[1, 2], filter_counts=SimpleNamespace(values=[1, 20, 3]))
    stream = SimpleNamespace(stats=stats)
    meter = Meter(_Alone(), stream, batches, 16, max_reuse=3, started=1000.0, earlier=earlier)  # type: ignore[arg-type]
    meter.begin()
    for _ in range(3):
        meter.step()
    clock.now, stats.images, stats.image_bytes = 1100.0, 32, 3200
    return meter.totals()


def test_one_life_is_counted_from_its_start_and_its_rates_from_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    totals = _totals(monkeypatch, Totals())
    assert (totals.steps, totals.seconds, totals.loop_s) == (3, 100.0, 80.0)
    assert (totals.images_made, totals.images_trained, totals.bytes_received) == (32, 48, 3200)
    assert totals.made_per_s == (32 - 8) / 80
    assert totals.trained_per_s == 48 / 80
    assert totals.data_wait == 10 / 80
    assert totals.reuse == 48 / 32
    assert totals.groups_by_uses == (1, 2, 0, 0)
    assert totals.filter_counts == (1, 20, 3)


def test_two_equal_lives_have_twice_the_counts_and_the_same_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    one = _totals(monkeypatch, Totals())
    two = _totals(monkeypatch, one)
    assert (two.steps, two.seconds, two.loop_s, two.wait_s) == (6, 200.0, 160.0, 20.0)
    assert (two.images_made, two.images_trained, two.bytes_received) == (64, 96, 6400)
    assert two.groups_by_uses == (2, 4, 0, 0)
    assert two.filter_counts == (2, 40, 6)
    assert (two.rejected, two.expired, two.hedged, two.quarantined) == (2, 4, 6, 8)
    for rate in ("made_per_s", "trained_per_s", "data_wait", "reuse"):
        assert getattr(two, rate) == getattr(one, rate)
    assert _totals(monkeypatch, replace(one, producers_seen=5)).producers_seen == 5


def test_concepts_are_added_over_ranks_and_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    class Two(_Alone):
        """Two ranks that count alike."""

        def reduce(self, values: torch.Tensor, reduction: str) -> torch.Tensor:
            return 2 * values

    stats = SimpleNamespace(images=0, image_bytes=0, producers=1, producers_seen=1)
    stats.rejected = stats.expired = stats.hedged = stats.quarantined = 0
    batches = SimpleNamespace(wait_s=0.0, groups_by_uses=[0, 5], groups_by_concept=Counter({2: 3, -1: 1, 0: 1}))
    batches.filter_counts = None
    earlier = Totals(groups_by_concept=(10, 20, 30, 40))
    meter = Meter(Two(), SimpleNamespace(stats=stats), batches, 1, 3, 0.0, earlier, num_concepts=3)  # type: ignore[arg-type]
    totals = meter.totals()
    assert totals.groups_by_concept == (10 + 2, 20, 30 + 6, 40 + 2)
    assert totals.groups_by_uses == (0, 10, 0, 0)


def test_a_run_that_has_not_begun_has_no_rates() -> None:
    nothing = Totals()
    assert (nothing.made_per_s, nothing.trained_per_s, nothing.data_wait, nothing.reuse) == (0, 0, 0, 0)


def test_the_record_survives_json_exactly() -> None:
    record = Record(
        loss=[(1, 2.5)],
        knn=[(50, 0.75)],
        rankme=[(50, 12.5)],
        knn_before=0.2,
        totals=Totals(steps=5, wait_s=0.5, groups_by_uses=(3, 0, 1), groups_by_concept=(1, 0), filter_counts=(0, 9, 2)),
        hardest_prompts=[("a red fox", 7)],
    )
    assert Record.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_a_record_with_strange_keys_or_without_a_curve_is_refused() -> None:
    values = json.loads(json.dumps(Record(knn=[(50, 0.75)]).to_json()))
    with pytest.raises(TypeError, match="strange"):
        Record.from_json({**values, "strange": 1})
    del values["knn"]
    with pytest.raises(KeyError, match="knn"):
        Record.from_json(values)
