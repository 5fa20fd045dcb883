"""The reservoir: every group is used exactly as often as it is meant to be, and never twice in a batch."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.consumer.reservoir import Reservoir
from penstock.consumer.stream import Group
from penstock.protocol.tickets import Manifest, Recipe, Ticket

MANIFEST = Manifest(
    model="m",
    model_digest="d" * 64,
    scheduler="s",
    dtype="float32",
    backend="eager",
    device="cpu",
    batch_images=4,
    versions={},
)

RECIPE = Recipe(
    prompt="a red fox",
    seed=7,
    num_images=1,
    guidance_scale=2.0,
    num_inference_steps=8,
    scheduler="default",
    height=1,
    width=1,
    model_digest="d1",
)


def _group(index: int) -> Group:
    return Group(Ticket(index=index, rank=0, recipe=RECIPE), np.zeros((1, 1, 1, 3), np.uint8), "ann", MANIFEST)


@settings(max_examples=60, deadline=None)
@given(reuse=st.integers(1, 6), batch=st.integers(1, 8), extra=st.integers(0, 12), steps=st.integers(1, 40))
def test_every_group_is_used_exactly_as_often_as_asked(reuse: int, batch: int, extra: int, steps: int) -> None:
    reservoir = Reservoir(capacity_groups=batch + extra, reuse=reuse, seed=(1, 0))
    uses: Counter[int] = Counter()
    index = 0
    for step in range(steps):
        while not reservoir.full:
            reservoir.put(_group(index))
            index += 1
        drawn = reservoir.draw(batch, step)
        chosen = [use.group.ticket.index for use in drawn]
        assert len(set(chosen)) == batch, "a group twice in a batch"
        for use in drawn:
            assert use.echo == uses[use.group.ticket.index]
        uses.update(chosen)
        assert len(reservoir) <= batch + extra
        kept = {group.ticket.index: count for group, count in reservoir.contents}
        assert all(count < reuse for count in kept.values())
        for group in range(index):
            assert uses[group] == kept.get(group, reuse)


def test_the_draw_depends_on_seed_and_step_alone() -> None:
    def draws(seed: tuple[int, ...]) -> list[list[int]]:
        reservoir = Reservoir(capacity_groups=50, reuse=100, seed=seed)
        for index in range(50):
            reservoir.put(_group(index))
        return [[use.group.ticket.index for use in reservoir.draw(10, step)] for step in range(5)]

    assert draws((1, 0)) == draws((1, 0))
    assert draws((1, 0)) != draws((1, 1))
    assert len({tuple(batch) for batch in draws((1, 0))}) == 5, "each step draws anew"


def test_groups_meet_new_company() -> None:
    reservoir = Reservoir(capacity_groups=100, reuse=1000, seed=(0,))
    for index in range(100):
        reservoir.put(_group(index))
    counts = Counter(use.group.ticket.index for step in range(400) for use in reservoir.draw(10, step))
    # Each is expected 40 times; a binomial with sd 6 leaves 15 .. 65 once in ten thousand runs of 100 groups.
    assert min(counts.values()) > 15
    assert max(counts.values()) < 65


def test_a_group_goes_on_from_the_uses_it_had() -> None:
    reservoir = Reservoir(capacity_groups=1, reuse=3, seed=(0,))
    reservoir.put(_group(0), uses=1)
    assert [use.echo for step in range(2) for use in reservoir.draw(1, step)] == [1, 2]
    assert len(reservoir) == 0


def test_more_than_the_capacity_is_refused() -> None:
    reservoir = Reservoir(capacity_groups=1, reuse=3, seed=(0,))
    reservoir.put(_group(0))
    with pytest.raises(ValueError, match="holds 1 groups"):
        reservoir.put(_group(1))


def test_a_batch_larger_than_what_is_kept_is_refused() -> None:
    reservoir = Reservoir(capacity_groups=5, reuse=3, seed=(0,))
    reservoir.put(_group(0))
    with pytest.raises(ValueError, match="a batch of 2 groups"):
        reservoir.draw(2, 0)
