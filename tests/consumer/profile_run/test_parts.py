"""What the ranks' parts come to, where that is more than a sum; and what a reservoir holds at first."""

import dataclasses
from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import pytest

from penstock.consumer.config import ReservoirConfig
from penstock.consumer.profile_run import parts, together
from penstock.consumer.profile_run.bench import Bench
from penstock.consumer.profile_run.meeting import Met
from penstock.consumer.profile_run.parts import Part
from penstock.consumer.profile_run.settings import ProfileConfig
from penstock.consumer.profile_run.together import Expected
from penstock.telemetry.profile.measurements import Rate

_MET = [Met(name=name, device="cpu", backend="eager", is_local=True, ready_s=1.0) for name in ("ann", "bob")]


def _part(*, sink: float, wire: float, engines: dict[str, float]) -> Part:
    alone = {"ann": sink / 2, "bob": sink / 2}
    return cast(
        Part,
        SimpleNamespace(
            fleet=Rate(images=round(10 * sink), seconds=10.0, windows=(sink, sink)),
            wire=Rate(images=round(10 * wire), seconds=10.0),
            engines=engines,
            alone_by_producer=alone,
        ),
    )


def test_a_sink_that_the_wire_holds_back_tells_nothing_of_the_fleet() -> None:
    rate = parts.fleet(_MET, [_part(sink=150, wire=155, engines={"ann": 300.0, "bob": 300.0})])
    assert rate.images_per_s == pytest.approx(600)
    assert rate.windows == pytest.approx((600, 600))


@pytest.mark.parametrize(
    ("wire", "engines"),
    [
        (1000.0, {"ann": 300.0, "bob": 300.0}),  # something else holds it back
        (155.0, {"ann": 76.0, "bob": 76.0}),  # it makes no more
        (155.0, {"ann": 300.0}),  # one has not said what it makes
    ],
)
def test_else_what_came_is_what_the_fleet_makes(wire: float, engines: dict[str, float]) -> None:
    assert parts.fleet(_MET, [_part(sink=150, wire=wire, engines=engines)]).images_per_s == 150


def test_engines_of_two_kinds_have_no_sum() -> None:
    met = [_MET[0], dataclasses.replace(_MET[1], generates=False)]
    part = _part(sink=150, wire=155, engines={"ann": 300.0, "bob": 9000.0})
    assert parts.fleet(met, [part]).images_per_s == 150


def test_what_engines_make_is_no_rate_of_what_a_filter_leaves() -> None:
    part = _part(sink=150, wire=155, engines={"ann": 300.0, "bob": 300.0})
    assert parts.fleet(_MET, [part], is_filtered=True).images_per_s == 150


def _kept(*, is_fed: bool, rank: int = 0, world_size: int = 1, **settings: Any) -> list[tuple[int, int]]:
    config = ProfileConfig(groups_per_step=8, **{"reservoir": ReservoirConfig(capacity_groups=32, reuse=4)} | settings)
    bench = SimpleNamespace(config=config, rank=rank, world_size=world_size, next_index=40, max_reuse=4)
    kept = together._kept(cast(Bench, bench), Expected(images_per_s=1.0, is_fed=is_fed))
    return [(each.index, each.uses) for each in kept]


def test_a_fast_fleet_has_filled_the_reservoir_with_groups_of_all_ages() -> None:
    kept = _kept(is_fed=True)
    assert [index for index, _ in kept] == list(range(40, 72))
    assert Counter(uses for _, uses in kept) == dict.fromkeys(range(4), 8)


def test_a_slow_fleet_leaves_a_steps_groups_in_it() -> None:
    assert [index for index, _ in _kept(is_fed=False)] == list(range(40, 48))


def test_each_rank_has_its_own_and_in_ticket_order_every_lane_is_full() -> None:
    for is_fed in (True, False):
        ranks = [_kept(is_fed=is_fed, rank=rank, world_size=2, order="ticket") for rank in (0, 1)]
        assert [index % 2 for index, _ in ranks[0] + ranks[1]] == [0] * 16 + [1] * 16
        lanes = Counter(index % 8 for index, _ in ranks[0] + ranks[1])
        assert lanes == dict.fromkeys(range(8), 4)
