"""The reservoir: every group is used exactly as often as it is meant to be, and then leaves."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.consumer.group import Group
from penstock.consumer.reservoir import Reservoir
from penstock.consumer.reuse import ReusePolicy, Usage
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
    guidance_scales=(2.0,),
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
    reservoir = Reservoir(capacity_groups=10, policy=ReusePolicy.fixed(reuse))
    for index in range(10):
        reservoir.put(_group(index))
    uses: Counter[int] = Counter()
    for step, draw in enumerate(draws):
        wanted = [index for index in sorted(draw) if uses[index] < reuse]
        made = reservoir.use(wanted, step)
        assert [use.group.ticket.index for use in made] == wanted
        assert [use.echo for use in made] == [uses[index] for index in wanted]
        uses.update(wanted)
        kept = {index: usage.uses for index, usage in reservoir.usage.items()}
        assert kept == {index: uses[index] for index in range(10) if uses[index] < reuse}
        assert [group.ticket.index for group in reservoir.groups] == list(kept)
        assert len(reservoir) == len(kept)
        assert reservoir.nbytes == 3 * len(kept)
        assert all(reservoir.usage[index].used_at == step for index in wanted if index in kept)


def test_a_group_goes_on_from_the_uses_it_had() -> None:
    reservoir = Reservoir(capacity_groups=1, policy=ReusePolicy.fixed(3))
    reservoir.put(_group(0), Usage(1, used_at=4))
    assert [use.echo for step in (5, 6) for use in reservoir.use([0], step)] == [1, 2]
    assert len(reservoir) == 0


def test_it_says_what_it_has_room_for_and_takes_what_an_earlier_life_had() -> None:
    reservoir = Reservoir(capacity_groups=2, policy=ReusePolicy.fixed(3))
    for index in range(3):
        assert reservoir.room == max(0, 2 - index)
        reservoir.make_room(1)
        reservoir.put(_group(index), Usage(1, used_at=0))
    assert len(reservoir) == 3, "nothing leaves before its last use"


def test_the_oldest_of_the_most_used_spare_groups_give_place_to_newcomers() -> None:
    reservoir = Reservoir(capacity_groups=5, policy=ReusePolicy(min_reuse=2, max_reuse=9))
    for index, uses in enumerate([1, 4, 2, 4, 7]):
        reservoir.put(_group(index), Usage(uses, used_at=0))
    assert reservoir.room == 4, "all but the one that is due"
    reservoir.make_room(2)
    assert list(reservoir.usage) == [0, 2, 3], "7 uses first; of the two with 4 the older"
    assert reservoir.nbytes == 9
    reservoir.make_room(2)
    assert list(reservoir.usage) == [0, 2, 3], "there was room already"
    assert reservoir.room == 4


def test_a_group_that_is_there_already_is_refused() -> None:
    reservoir = Reservoir(capacity_groups=5, policy=ReusePolicy.fixed(3))
    reservoir.put(_group(4))
    with pytest.raises(ValueError, match="group 4 is in the reservoir already"):
        reservoir.put(_group(4))


def test_a_group_that_is_used_up_cannot_be_used() -> None:
    reservoir = Reservoir(capacity_groups=5, policy=ReusePolicy.fixed(1))
    reservoir.put(_group(0))
    reservoir.use([0], 0)
    with pytest.raises(KeyError):
        reservoir.use([0], 1)
