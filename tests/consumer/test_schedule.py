"""The two orders: what enters when and what a step draws, without pixels; and what must not matter in ticket order."""

from collections import Counter
from collections.abc import Iterable
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.consumer.feed_state import Entered, FeedState, Kept, merge
from penstock.consumer.reuse import ReusePolicy, Usage
from penstock.consumer.schedule import ArrivalOrder, Entry, Share, TicketOrder, images_of_use, open_order

Steps = list[tuple[int, ...]]


class _Rank:
    """One rank in ticket order, whose groups come at once: what Feed does, without pixels."""

    def __init__(self, share: Share, state: FeedState, step: int) -> None:
        self.share, self.step = share, step
        self.order = TicketOrder(share)
        self.kept = {kept.index: kept.usage for kept in state.kept}
        self.entered = Entered(state.rank, state.world_size, state.cursor, state.entered)
        self.tickets = self.order.upcoming(state, step)
        self.entries: list[Entry] = []

    def draw(self) -> list[int]:
        while (drawn := self.order.draw(self.step, self.kept)) is None:
            entry = next(self.tickets)
            self.entries.append(entry)
            assert entry.need_by_step == self.step
            assert entry.index not in self.kept
            self.kept[entry.index] = Usage()
            self.entered.add(entry.index)
        for index in drawn:
            self.kept[index] = Usage(self.kept[index].uses + 1, self.step)
            if self.kept[index].uses == self.share.policy.max_reuse:
                del self.kept[index]
        self.step += 1
        return drawn

    @property
    def state(self) -> FeedState:
        return FeedState(
            rank=self.share.rank,
            world_size=self.share.world_size,
            cursor=self.entered.cursor,
            entered=tuple(sorted(self.entered.beyond)),
            kept=tuple(Kept(index, usage.uses, 0, usage.used_at) for index, usage in self.kept.items()),
        )


def _share(
    rank: int = 0,
    world_size: int = 1,
    *,
    groups: int = 8,
    extra: int = 5,
    reuse: int = 3,
    seed: int = 7,
    policy: ReusePolicy | None = None,
) -> Share:
    return Share(
        rank=rank,
        world_size=world_size,
        seed=seed,
        groups_per_step=groups,
        capacity_groups=groups + extra,
        policy=policy or ReusePolicy.fixed(reuse),
    )


def _unused(indices: Iterable[int]) -> dict[int, Usage]:
    return {index: Usage() for index in indices}


def _play(lives: list[tuple[int, int]], **settings: int) -> Steps:
    """What all ranks together use, step by step, over lives of (number of ranks, steps)."""
    whole, step, steps = FeedState.beginning(0, 1), 0, []
    for world_size, num_steps in lives:
        ranks = [
            _Rank(_share(rank, world_size, **settings), whole.share(rank, world_size), step)
            for rank in range(world_size)
        ]
        for _ in range(num_steps):
            drawn = [rank.draw() for rank in ranks]
            for rank, indices in zip(ranks, drawn, strict=True):
                assert {index % world_size for index in indices} == {rank.share.rank}
            steps.append(tuple(sorted(index for indices in drawn for index in indices)))
        step += num_steps
        whole = merge([rank.state for rank in ranks])
    return steps


WORLDS = st.sampled_from([1, 2, 4, 8])
PLANS = st.fixed_dictionaries(
    {"extra": st.integers(0, 30), "reuse": st.integers(1, 5), "seed": st.integers(0, 2**32 - 1)}
)


@settings(max_examples=40, deadline=None)
@given(plan=PLANS, num_steps=st.integers(1, 40))
def test_every_index_is_used_as_often_as_asked_and_never_twice_in_a_step(plan: dict[str, int], num_steps: int) -> None:
    rank = _Rank(_share(**plan), FeedState.beginning(0, 1), 0)
    uses: Counter[int] = Counter()
    for _ in range(num_steps):
        drawn = rank.draw()
        assert len(set(drawn)) == len(drawn) == 8
        assert sorted(index % 8 for index in drawn) == list(range(8)), "one group of every lane"
        uses.update(drawn)
    planned = [entry.index for entry in rank.entries]
    assert len(set(planned)) == len(planned)
    kept = {index: usage.uses for index, usage in rank.kept.items()}
    assert all(uses[index] == kept.get(index, plan["reuse"]) for index in planned)
    assert set(uses) <= set(planned)
    for lane in range(8):
        assert [index for index in planned if index % 8 == lane] == list(range(lane, max(planned) + 1, 8))[
            : sum(index % 8 == lane for index in planned)
        ], "a lane takes its indices in their order"


@settings(max_examples=40, deadline=None)
@given(plan=PLANS, lives=st.lists(st.tuples(WORLDS, st.integers(1, 12)), min_size=1, max_size=5))
def test_ranks_and_lives_change_nothing(plan: dict[str, int], lives: list[tuple[int, int]]) -> None:
    num_steps = sum(steps for _, steps in lives)
    assert _play(lives, **plan) == _play([(1, num_steps)], **plan)


def test_two_one_and_four_ranks_read_one_order() -> None:
    assert _play([(2, 13), (1, 9), (4, 18)]) == _play([(1, 40)])


def test_the_seed_decides() -> None:
    assert _play([(1, 20)], seed=1) == _play([(1, 20)], seed=1)
    assert _play([(1, 20)], seed=1) != _play([(1, 20)], seed=2)


def test_what_is_drawn_is_philox_of_seed_and_step() -> None:
    """From the definition, so that no later change of code can change what an old run would do."""
    kept = _unused(range(24))
    for step in range(5):
        words = np.random.Philox(key=[7, step]).random_raw(8)
        expected = [lane + 8 * (int(words[lane]) * 3 // 2**64) for lane in range(8)]
        assert TicketOrder(_share(extra=16)).draw(step, kept) == expected
    # The raw words themselves, as NumPy documents them never to change.
    assert np.random.Philox(key=[7, 3]).random_raw(2).tolist() == [8893702929424106994, 13357943582879616415]


def test_every_group_of_a_lane_is_as_likely() -> None:
    order, counts = TicketOrder(_share(extra=32)), Counter[int]()
    for step in range(2000):
        counts.update(order.draw(step, _unused(range(40))))
    # Each of 5 in a lane is expected 400 times; a binomial with sd 18 stays within five of them.
    assert all(310 < counts[index] < 490 for index in range(40))


def test_the_plan_is_computed_no_further_than_it_is_asked_for() -> None:
    share = _share(extra=8, reuse=2)
    entries = list(islice(TicketOrder(share).upcoming(FeedState.beginning(0, 1), 0), 16 + 3))
    assert [entry.index for entry in entries[:16]] == list(range(16))
    assert [entry.need_by_step for entry in entries[:16]] == [0] * 16
    assert entries[16].need_by_step >= 2, "no group is used up before its second use"


def test_a_step_waits_until_all_lanes_are_full() -> None:
    order = TicketOrder(_share(extra=8))
    assert order.draw(4, _unused(set(range(16)) - {11})) is None
    assert order.draw(4, _unused(range(16))) is not None


def test_a_lane_that_holds_what_is_anothers_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"lane 3 must hold 2 groups at step 4, got 1"):
        TicketOrder(_share(extra=8)).draw(4, _unused({*range(16), 20} - {11}))


@given(capacity=st.integers(4, 50), world_size=st.sampled_from([1, 2, 4]))
def test_the_ranks_shares_are_the_whole(capacity: int, world_size: int) -> None:
    shares = [_share(rank, world_size, groups=4, extra=capacity - 4) for rank in range(world_size)]
    assert sum(share.capacity for share in shares) == capacity
    assert sum(share.groups_per_batch for share in shares) == 4
    assert all(share.capacity >= share.groups_per_batch for share in shares)


def test_arrival_asks_for_every_index_in_order_and_draws_from_what_came() -> None:
    order = ArrivalOrder(_share(1, 2, groups=4, extra=4, reuse=2))
    state = FeedState(rank=1, world_size=2, cursor=5, entered=(9,))
    assert [entry.index for entry in islice(order.upcoming(state, 3), 4)] == [5, 7, 11, 13]
    came = _unused([21, 3, 55, 7, 9])
    drawn = order.draw(0, came) or []
    assert len(set(drawn)) == 2
    assert set(drawn) <= set(came)
    assert len({tuple(order.draw(step, came) or ()) for step in range(20)}) > 5, "each step draws anew"
    assert order.draw(0, _unused([21])) is None, "one group is no batch of two"


ADAPTIVE = ReusePolicy(min_reuse=2, max_reuse=6, min_distance_steps=3)


def test_what_is_due_is_drawn_before_what_is_spare() -> None:
    order = ArrivalOrder(_share(groups=4, policy=ADAPTIVE))
    kept = {0: Usage(0), 1: Usage(5, 1), 2: Usage(1, 2), 3: Usage(2, 3), 4: Usage(3, 0), 5: Usage(4, 1)}
    for step in range(6, 30):
        drawn = order.draw(step, kept) or []
        assert {0, 2} < set(drawn), "the two that have been used less than twice"
        assert len(set(drawn)) == 4
    assert len({frozenset(order.draw(step, kept) or ()) for step in range(6, 60)}) == 6, "2 of the 4 spare ones, any"


def test_with_enough_that_is_due_nothing_is_used_beyond_the_floor() -> None:
    order = ArrivalOrder(_share(groups=4, policy=ADAPTIVE))
    kept = _unused(range(10)) | {index: Usage(2, 0) for index in range(10, 20)}
    drawn = [index for step in range(5, 60) for index in order.draw(step, kept) or []]
    assert set(drawn) == set(range(10))


def test_a_group_rests_for_as_many_steps_as_asked() -> None:
    order = ArrivalOrder(_share(groups=4, policy=ADAPTIVE))
    kept = {index: Usage(3, used_at=10) for index in range(3)} | {3: Usage(1, used_at=9)}
    assert order.draw(12, kept) is None, "three of the four were used two steps ago"
    assert sorted(order.draw(13, kept) or []) == [0, 1, 2, 3]
    assert order.draw(11, _unused(range(3)) | {3: Usage(1, used_at=9)}) is None


@given(seed=st.integers(0, 2**32 - 1), index=st.integers(0, 2**40), echo=st.integers(0, 99), data=st.data())
def test_a_use_takes_as_many_different_images_as_asked(seed: int, index: int, echo: int, data: st.DataObject) -> None:
    num_images = data.draw(st.integers(1, 40))
    images_per_use = data.draw(st.integers(1, num_images))
    chosen = images_of_use(seed, index, echo, num_images, images_per_use)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == images_per_use
    assert 0 <= min(chosen) <= max(chosen) < num_images
    assert chosen == images_of_use(seed, index, echo, num_images, images_per_use)


def test_every_image_is_as_likely_and_each_use_draws_anew() -> None:
    counts = Counter(image for echo in range(2000) for image in images_of_use(3, 5, echo, 10, 6))
    # Each is expected 1,200 times; the standard deviation is sqrt(2000 · .6 · .4) = 22.
    assert all(1090 < counts[image] < 1310 for image in range(10))
    # 210 ways to take 6 of 10: 100 uses meet at least 60 of them, and neighbours in the run are unlike.
    assert len({tuple(images_of_use(3, 5, echo, 10, 6)) for echo in range(100)}) > 60
    assert len({tuple(images_of_use(3, index, 0, 10, 6)) for index in range(100)}) > 60


@settings(max_examples=30, deadline=None)
@given(reuse=st.integers(1, 8), skip=st.integers(0, 200))
def test_in_arrival_order_a_group_is_wanted_when_the_reservoir_first_lacks_it(reuse: int, skip: int) -> None:
    order = ArrivalOrder(_share(groups=4, extra=4, reuse=reuse))
    first, second = islice(order.upcoming(FeedState.beginning(0, 1), 0), skip, skip + 2)
    assert 0 <= first.need_by_step <= second.need_by_step
    # Before step s at most s·4/reuse groups were used up, so a group beyond 8 + s·4/reuse had no place yet.
    assert first.index <= 8 + (first.need_by_step + 1) * 4 / reuse


def test_the_name_decides_the_order() -> None:
    assert isinstance(open_order("ticket", _share()), TicketOrder)
    assert isinstance(open_order("arrival", _share()), ArrivalOrder)
