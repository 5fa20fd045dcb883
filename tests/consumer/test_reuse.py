"""The reuse policies against a fleet's luck: echo only where fresh groups lag, and not a step longer."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.consumer.config import ReservoirConfig
from penstock.consumer.group import Group
from penstock.consumer.reservoir import Reservoir
from penstock.consumer.reuse import ReusePolicy, Usage
from penstock.consumer.schedule import ArrivalOrder, Share
from penstock.protocol.tickets import Ticket
from tests.protocol.samples import MANIFEST, RECIPE

GROUPS_PER_STEP = 4


class _Run:
    """A reservoir and its order, fed by hand."""

    def __init__(self, policy: ReusePolicy, capacity: int = 16) -> None:
        share = Share(
            rank=0,
            world_size=1,
            seed=1,
            groups_per_step=GROUPS_PER_STEP,
            capacity_groups=capacity,
            policy=policy,
        )
        self.order = ArrivalOrder(share)
        self.reservoir = Reservoir(capacity_groups=capacity, policy=policy)
        self.uses: Counter[int] = Counter()
        self.step = 0
        self._next = 0

    def come(self, num_groups: int) -> list[int]:
        """As many groups come as there is room for, at most so many."""
        num_groups = min(num_groups, self.reservoir.room)
        self.reservoir.make_room(num_groups)
        came = list(range(self._next, self._next + num_groups))
        for index in came:
            pixels = np.ones(RECIPE.shape, np.uint8)
            self.reservoir.put(Group(Ticket(index=index, rank=0, recipe=RECIPE), pixels, "ann", MANIFEST))
        self._next += num_groups
        return came

    def draw(self) -> list[int] | None:
        """One step; None where it has to wait."""
        drawn = self.order.draw(self.step, self.reservoir.usage)
        if drawn is not None:
            self.reservoir.use(drawn, self.step)
            self.uses.update(drawn)
            self.step += 1
        return drawn


ADAPTIVE = ReusePolicy(min_reuse=1, max_reuse=5)


def test_the_echo_rises_while_groups_lag_up_to_the_cap_and_no_further() -> None:
    run = _Run(ADAPTIVE)
    came = run.come(GROUPS_PER_STEP)
    for _ in range(5):
        assert sorted(run.draw() or []) == came, "rather than wait it uses what it has"
    assert run.draw() is None, "beyond the cap it waits"
    assert dict(run.uses) == dict.fromkeys(came, 5)


def test_the_echo_falls_with_the_first_step_after_fresh_groups_come() -> None:
    run = _Run(ADAPTIVE)
    run.come(16)
    for _ in range(12):
        run.draw()
    for _ in range(4):
        fresh = run.come(GROUPS_PER_STEP)
        assert sorted(run.draw() or []) == fresh, "nothing is used again while there is what nobody has used"


def test_with_a_fast_fleet_every_group_is_used_as_often_as_the_floor_says() -> None:
    run = _Run(ReusePolicy(min_reuse=2, max_reuse=9))
    for _ in range(200):
        run.come(100)
        assert run.draw() is not None
    in_reservoir = set(run.reservoir.usage)
    assert {uses for index, uses in run.uses.items() if index not in in_reservoir} == {2}
    assert max(run.uses.values()) == 2


@pytest.mark.parametrize(("per_step", "expected"), [(1, 4.0), (2, 2.0), (4, 1.0), (0.5, 8.0)])
def test_in_between_the_reuse_factor_follows_the_fleet(per_step: float, expected: float) -> None:
    """T/P by hand: a step of 4 groups while `per_step` come."""
    run = _Run(ReusePolicy(min_reuse=1, max_reuse=40))
    run.come(16)
    for step in range(2000):
        run.come(int((step + 1) * per_step) - int(step * per_step))
        assert run.draw() is not None
    assert run.uses.total() / len(run.uses) == pytest.approx(expected, rel=0.02)


@settings(max_examples=50, deadline=None)
@given(
    min_reuse=st.integers(1, 4),
    extra_reuse=st.integers(0, 6),
    distance=st.integers(1, 4),
    arrivals=st.lists(st.integers(0, 12), max_size=80),
)
def test_whatever_the_fleet_does_floor_cap_and_capacity_hold_and_nothing_stands_still(
    min_reuse: int, extra_reuse: int, distance: int, arrivals: list[int]
) -> None:
    policy = ReusePolicy(min_reuse=min_reuse, max_reuse=min_reuse + extra_reuse, min_distance_steps=distance)
    run = _Run(policy, capacity=GROUPS_PER_STEP * distance)
    for num_groups in arrivals:
        came = run.come(num_groups)
        assert len(run.reservoir) <= GROUPS_PER_STEP * distance
        drawn = run.draw()
        assert drawn is not None or len(came) == num_groups, "it never waits for groups that it does not let in"
    kept = set(run.reservoir.usage)
    assert all(min_reuse <= uses <= policy.max_reuse for index, uses in run.uses.items() if index not in kept)


def test_the_policies_are_one_rule() -> None:
    assert ReservoirConfig(reuse=7).reuse_policy == ReusePolicy(min_reuse=7, max_reuse=7)
    assert ReservoirConfig(policy="fresh", reuse=7).reuse_policy == ReusePolicy(min_reuse=1, max_reuse=1)
    adaptive = ReservoirConfig(policy="adaptive", min_reuse=2, reuse=9, min_distance_steps=3)
    assert adaptive.reuse_policy == ReusePolicy(min_reuse=2, max_reuse=9, min_distance_steps=3)


def test_a_group_that_was_never_used_need_not_rest() -> None:
    assert ReusePolicy(min_reuse=1, max_reuse=2, min_distance_steps=9).may_use(Usage(), step=0)
