"""The reservoir: every group is used exactly as often as it is meant to be, and then leaves."""

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
@given(reuse=st.integers(1, 6), draws=st.lists(st.sets(st.integers(0, 9), max_size=6), max_size=40))
def test_every_group_is_used_exactly_as_often_as_asked(reuse: int, draws: list[set[int]]) -> None:
    reservoir = Reservoir(capacity_groups=10, reuse=reuse)
    for index in range(10):
        reservoir.put(_group(index))
    uses: Counter[int] = Counter()
    for draw in draws:
        wanted = [index for index in sorted(draw) if uses[index] < reuse]
        made = reservoir.use(wanted)
        assert [use.group.ticket.index for use in made] == wanted
        assert [use.echo for use in made] == [uses[index] for index in wanted]
        uses.update(wanted)
        kept = {group.ticket.index: count for group, count in reservoir.contents}
        assert kept == {index: uses[index] for index in range(10) if uses[index] < reuse}
        assert set(reservoir.indices) == set(kept)
        assert len(reservoir) == len(kept)


def test_a_group_goes_on_from_the_uses_it_had() -> None:
    reservoir = Reservoir(capacity_groups=1, reuse=3)
    reservoir.put(_group(0), uses=1)
    assert [use.echo for _ in range(2) for use in reservoir.use([0])] == [1, 2]
    assert len(reservoir) == 0


def test_it_says_when_it_is_full_and_takes_what_an_earlier_life_had() -> None:
    reservoir = Reservoir(capacity_groups=2, reuse=3)
    for index in range(3):
        assert reservoir.full == (index >= 2)
        reservoir.put(_group(index), uses=1)
    assert len(reservoir) == 3


def test_a_group_that_is_there_already_is_refused() -> None:
    reservoir = Reservoir(capacity_groups=5, reuse=3)
    reservoir.put(_group(4))
    with pytest.raises(ValueError, match="group 4 is in the reservoir already"):
        reservoir.put(_group(4))


def test_a_group_that_is_used_up_cannot_be_used() -> None:
    reservoir = Reservoir(capacity_groups=5, reuse=1)
    reservoir.put(_group(0))
    reservoir.use([0])
    with pytest.raises(KeyError):
        reservoir.use([0])
