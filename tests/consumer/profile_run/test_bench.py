"""What measurements share: memory that does not grow with the fleet, and steps that schedules can follow."""

from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import pytest

from penstock.consumer.batch import Batch
from penstock.consumer.config import ReservoirConfig
from penstock.consumer.profile_run import alone, bench
from penstock.consumer.profile_run.bench import Bench, BusyCores
from penstock.consumer.profile_run.settings import ProfileConfig
from penstock.protocol.errors import StarvedError


def _bench(config: ProfileConfig, **more: Any) -> Bench:
    accelerator = SimpleNamespace(process_index=0, num_processes=1)
    parts: dict[str, Any] = dict.fromkeys(("prompts", "tokenizer", "ledger", "engines", "check_fleet"))
    parts |= {"observed": SimpleNamespace(steps=0, stepped_at=0.0), "stream": None, "step": None}
    return Bench(config=config, accelerator=cast(Any, accelerator), **parts | more)


def test_no_more_groups_are_kept_than_a_run_would_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ProfileConfig(groups_per_step=4, reservoir=ReservoirConfig(capacity_groups=8))
    peers = [SimpleNamespace(manifest=SimpleNamespace(batch_images=64))] * 50
    came: list[object] = []

    def get() -> object:
        came.append(object())
        return came[-1]

    stream = SimpleNamespace(look=lambda: SimpleNamespace(peers=peers), ask=lambda tickets, stand_in: None, get=get)
    monkeypatch.setattr(Bench, "writer", lambda self: SimpleNamespace(stand_in=None))
    ours = _bench(config, stream=stream)
    alone.warm_up(ours)
    assert len(came) == 2 * 50 * 64 / config.generator.images_per_group, "two batches of every producer"
    assert ours.groups == came[:8]


def test_what_is_out_is_waited_for_no_longer_than_a_stream_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    left = [1, 0]  # the second ticket's producer is gone

    def get() -> object:
        if not left.pop(0):
            raise StarvedError("no producer is left")
        return object()

    look = SimpleNamespace(tickets=Counter({"issued": 2}), arrived_groups=0)
    stream = SimpleNamespace(look=lambda: look, ask=lambda tickets, stand_in: None, get=get)
    monkeypatch.setattr(Bench, "writer", lambda self: SimpleNamespace(stand_in=None))
    with pytest.raises(StarvedError, match="no producer is left"):
        alone.drain(_bench(ProfileConfig(), stream=stream))


@pytest.mark.parametrize(
    ("step_s", "lasts_s"),
    [(0.1, 10.0), (1.0, 15.0), (5.0, 30.0)],  # many steps; fifteen; three times as long as was asked for
)
def test_slow_steps_get_more_time_to_show_how_fast_they_are(step_s: float, lasts_s: float) -> None:
    done = [0.0]
    while not alone._is_enough(done, 10.0):
        done.append(done[-1] + step_s)
    assert done[-1] == pytest.approx(lasts_s, abs=step_s)


def test_schedules_end_with_the_run_however_many_steps_a_profile_does() -> None:
    steps: list[int] = []
    ours = _bench(ProfileConfig(max_steps=3), step=lambda batch, step: steps.append(step))
    for _ in range(5):
        ours.train(cast(Batch, None))
    assert steps == [0, 1, 2, 2, 2]
    assert (ours.num_steps, ours.observed.steps) == (5, 5)


@pytest.mark.parametrize(("cores", "share"), [(2, 0.75), (1, None)])
def test_cores_are_busy_by_everybody_unless_a_quota_makes_that_mean_nothing(
    monkeypatch: pytest.MonkeyPatch, cores: int, share: float | None
) -> None:
    # In ten seconds two cores were idle for five, together.
    times = iter([(0.0, 20.0), (5.0, 40.0)])
    monkeypatch.setattr(bench, "_core_seconds", lambda: next(times))
    monkeypatch.setattr(bench, "_usable", lambda: [0, 1])
    monkeypatch.setattr(bench, "usable_cores", lambda: cores)
    assert BusyCores().share() == share
