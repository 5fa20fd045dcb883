"""The feed: stop after any step, go on in another life, and nothing is lost, repeated or used too often."""

import json
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.consumer.config import TrainConfig
from penstock.consumer.feed import Feed
from penstock.consumer.feed_state import FeedState, Kept, merge
from penstock.consumer.group import Group, Quarantined
from penstock.consumer.ledger import Ledger
from penstock.consumer.ledger_reader import LedgerReader, read_steps
from penstock.consumer.making_config import GeneratorConfig
from penstock.consumer.prefetch import Prefetcher
from penstock.consumer.prompts.toyworld import ToyWorldPrompts
from penstock.consumer.prompts.writer import TicketWriter
from penstock.consumer.reservoir import Reservoir
from penstock.consumer.reuse import ReusePolicy
from penstock.consumer.schedule import Share, open_order
from penstock.protocol.limits import MAX_IMAGES_PER_GROUP
from penstock.protocol.tickets import Manifest, Ticket

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

torch.set_num_threads(1)


Name = Literal["arrival", "ticket"]


class _Stream:
    """A stream that delivers in the order of the tickets, or in any order within its window; sometimes none at once."""

    def __init__(self, order: Name, window: int, seed: int, poison: frozenset[int] = frozenset()) -> None:
        self._in_order = order == "ticket"
        self._window = window
        self._rng = random.Random(seed)
        self._poison = poison
        self._tickets: Iterator[Ticket] = iter(())
        self._asked: list[Ticket] = []
        self._records: list[Quarantined] = []
        self.most_asked = 0

    def ask(self, tickets: Iterator[Ticket], stand_in: Callable[[Ticket], Ticket]) -> None:
        self._tickets, self._stand_in = tickets, stand_in

    def _top_up(self) -> None:
        while len(self._asked) < self._window:
            ticket = next(self._tickets, None)
            if ticket is None:
                break
            if ticket.index in self._poison and not ticket.stand_in:
                stand_in = self._stand_in(ticket)
                self._records.append(Quarantined(ticket, "poison", stand_in))
                ticket = stand_in
            self._asked.append(ticket)
        self.most_asked = max(self.most_asked, len(self._asked))

    def get(self) -> Group:
        self._top_up()
        assert self._asked, "the feed waits for a group that it has not asked for"
        ticket = self._asked.pop(0 if self._in_order else self._rng.randrange(len(self._asked)))
        numbers = np.arange(ticket.recipe.num_images).reshape(-1, 1, 1, 1)
        pixels = ((ticket.index + 16 * numbers) % 256).astype(np.uint8)
        return Group(ticket, np.broadcast_to(pixels, ticket.recipe.shape).copy(), "ann", MANIFEST)

    def poll(self) -> Group | None:
        self._top_up()
        return self.get() if self._asked and self._rng.random() < 0.7 else None

    def quarantined(self) -> list[Quarantined]:
        records, self._records = self._records, []
        return records

    def abandon(self) -> None:
        pass


def _feed(
    folder: Path,
    *,
    order: Name = "arrival",
    reuse: int = 2,
    capacity: int = 6,
    groups: int = 3,
    window: int = 5,
    seed: int = 0,
    poison: frozenset[int] = frozenset(),
    state: FeedState | None = None,
    step: int = 0,
    policy: ReusePolicy | None = None,
    made: int = 2,
    images_per_use: int = 0,
) -> Prefetcher:
    """A rank's batches from `step` on. `capacity` and `groups` are of all ranks."""
    state = state or FeedState.beginning(0, 1)
    config = TrainConfig(
        generator=GeneratorConfig(images_per_group=made, num_inference_steps=1, height=8, width=8),
    )
    share = Share(
        rank=state.rank,
        world_size=state.world_size,
        seed=0,
        groups_per_step=groups,
        capacity_groups=capacity,
        policy=policy or ReusePolicy.fixed(reuse),
    )
    feed = Feed(
        stream=_Stream(order, window, seed, poison),  # type: ignore[arg-type]
        writer=TicketWriter(ToyWorldPrompts(0), config, "d1"),
        order=open_order(order, share),
        reservoir=Reservoir(capacity_groups=share.capacity, policy=share.policy),
        state=state,
        step=step,
        seed=0,
        images_per_use=images_per_use,
        pin_memory=False,
    )
    (folder / "run.json").touch()
    ledger = Ledger(folder / f"ledger-{state.rank}.sqlite", {"seed": 0, "images_per_use": images_per_use or made})
    return Prefetcher(feed, ledger, torch.device("cpu"), range(step, 10**6), keeps_state=lambda step: True)


def _through_json(states: list[FeedState]) -> FeedState:
    """The states of all ranks, as a checkpoint keeps them and the next life reads them."""
    texts = [json.dumps(state.to_json()) for state in states]
    assert [FeedState.from_json(json.loads(text)) for text in texts] == states
    return merge([FeedState.from_json(json.loads(text)) for text in texts])


@settings(max_examples=80, deadline=None)
@given(
    order=st.sampled_from(["arrival", "ticket"]),
    reuse=st.integers(1, 4),
    extra=st.integers(0, 9),
    window=st.integers(1, 8),
    lives=st.lists(st.tuples(st.sampled_from([1, 2, 4]), st.integers(1, 10)), min_size=2, max_size=4),
    seed=st.integers(0, 2**16),
)
def test_however_often_and_with_how_many_ranks_every_group_enters_once_and_is_used_as_asked(
    order: Name, reuse: int, extra: int, window: int, lives: list[tuple[int, int]], seed: int
) -> None:
    uses: Counter[int] = Counter()
    counts: Counter[int] = Counter()
    whole, step = FeedState.beginning(0, 1), 0
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for life, (world_size, num_steps) in enumerate(lives):
            settings = {"reuse": reuse, "capacity": 4 + extra, "groups": 4, "window": window}
            feeds = [
                _feed(Path(folder), order=order, seed=seed + life, state=state, step=step, **settings)
                for state in (whole.share(rank, world_size) for rank in range(world_size))
            ]
            for feed in feeds:
                stack.enter_context(feed)
            for step in range(step, step + num_steps):  # noqa: B020 - a life goes on where the last has ended
                made = [(rank, feed.take(step)) for rank, feed in enumerate(feeds)]
                for rank, batch in made:
                    for position, index in enumerate(batch.indices):
                        assert index % world_size == rank
                        assert batch.echoes[2 * position].item() == uses[index], "uses are counted over all lives"
                indices = [index for _, batch in made for index in batch.indices]
                assert len(set(indices)) == len(indices) == 4
                uses.update(indices)
            step += 1
            whole = _through_json([feed.state for feed in feeds])
            kept = {entry.index: entry.uses for entry in whole.kept}
            entered = {*range(whole.cursor), *whole.entered}
            assert max(uses.values()) <= reuse
            assert {index for index in entered if uses[index] < reuse} == set(kept)
            assert all(uses[index] == kept.get(index, reuse) for index in entered)
            assert set(uses) <= entered
            for feed in feeds:
                counts.update(dict(enumerate(feed.groups_by_uses)))
            by_uses = Counter(uses[index] for index in entered)
            assert {num: count for num, count in counts.items() if count} == by_uses, "the histogram of reuse"


def _ticket_run(folder: Path, lives: list[tuple[int, int]], **settings: int) -> dict[int, tuple[int, ...]]:
    """What the ledger says of a run in ticket order over lives of (number of ranks, steps)."""
    folder.mkdir()
    whole, step = FeedState.beginning(0, 1), 0
    for world_size, num_steps in lives:
        feeds = [
            _feed(
                folder,
                order="ticket",
                capacity=11,
                groups=4,
                state=whole.share(rank, world_size),
                step=step,
                **settings,
            )
            for rank in range(world_size)
        ]
        for feed in feeds:
            with feed:
                for ahead in range(step, step + num_steps):
                    feed.take(ahead)
        step += num_steps
        whole = _through_json([feed.state for feed in feeds])
    return read_steps(folder)


def test_in_ticket_order_ranks_lives_windows_and_luck_change_nothing(tmp_path: Path) -> None:
    whole = _ticket_run(tmp_path / "whole", [(1, 40)])
    assert len(whole) == 40
    assert _ticket_run(tmp_path / "lives", [(2, 13), (1, 9), (4, 18)], window=1, seed=5) == whole
    assert _ticket_run(tmp_path / "window", [(1, 40)], window=30) == whole
    assert _ticket_run(tmp_path / "other", [(1, 40)], reuse=3) != whole


def test_in_arrival_order_more_groups_may_come_back_than_are_this_ranks_share(tmp_path: Path) -> None:
    kept = tuple(Kept(index, 1, 0) for index in range(9))
    state = FeedState(rank=0, world_size=1, cursor=9, kept=kept)
    with _feed(tmp_path, capacity=6, state=state, step=5) as feed:
        feed.take(5)
        assert {entry.index for entry in feed.state.kept} < set(range(9)), "nothing new enters before there is room"
        for step in range(6, 12):
            feed.take(step)
        assert len(feed.state.kept) <= 6


def test_a_stand_in_is_on_record_and_comes_back_as_itself(tmp_path: Path) -> None:
    with _feed(tmp_path, order="ticket", reuse=50, poison=frozenset({2, 4})) as feed:
        feed.take(0)
        feed.take(1)
    assert [(kept.index, kept.stand_in) for kept in feed.state.kept] == [(0, 0), (1, 0), (2, 1), (3, 0), (4, 1), (5, 0)]
    with LedgerReader(tmp_path) as ledger:
        assert [(record.index, record.stand_in) for record in ledger.quarantined()] == [(2, 1), (4, 1)]
        made = {group.index: (group.recipe, group.stand_in) for group in ledger.groups()}
    (tmp_path / "again").mkdir()
    with _feed(tmp_path / "again", order="ticket", reuse=50, state=feed.state, step=2) as again:
        again.take(2)
    with LedgerReader(tmp_path / "again") as ledger:
        remade = {group.index: (group.recipe, group.stand_in) for group in ledger.groups()}
    assert remade == made
    assert remade[2][1] == 1


def test_a_lost_tail_is_made_again_because_the_cursor_stands_at_the_step(tmp_path: Path) -> None:
    with _feed(tmp_path, reuse=1, capacity=3, window=50) as feed:
        feed.take(0)
    assert feed._feed._stream.most_asked > 6, "prefetch runs ahead"  # type: ignore[attr-defined]
    state = feed.state
    entered = {*range(state.cursor), *state.entered}
    assert len(entered) == 3, "but only what entered the reservoir counts"


def test_the_ledger_names_each_group_before_the_steps_that_use_it(tmp_path: Path) -> None:
    with _feed(tmp_path, seed=1, reuse=3) as feed:
        batches = [feed.take(step).indices for step in range(10)]
    with LedgerReader(tmp_path) as ledger:
        uses = {step: ledger.uses(step) for step in ledger.steps}
    assert [tuple(use.group.index for use in used) for used in uses.values()] == batches
    assert all(use.group.first_step <= step for step, used in uses.items() for use in used)


def test_the_newest_groups_have_different_prompts(tmp_path: Path) -> None:
    with _feed(tmp_path, capacity=40, window=40, reuse=9) as feed:
        for step in range(5):
            feed.take(step)
    newest = feed.newest(4)
    prompts = [group.ticket.recipe.prompt for group in newest]
    assert len(set(prompts)) == len(prompts) == 4
    indices = [group.ticket.index for group in newest]
    assert indices == sorted(indices, reverse=True)


def test_there_are_groups_to_show_though_the_reservoir_is_used_up(tmp_path: Path) -> None:
    with _feed(tmp_path, reuse=1, capacity=3, window=3) as feed:
        feed.take(0)
    assert feed.newest(3)


@settings(max_examples=80, deadline=None)
@given(
    min_reuse=st.integers(1, 3),
    extra_reuse=st.integers(0, 5),
    distance=st.integers(1, 3),
    extra=st.integers(0, 9),
    window=st.integers(1, 8),
    lives=st.lists(st.tuples(st.sampled_from([1, 2, 4]), st.integers(1, 12)), min_size=1, max_size=4),
    seed=st.integers(0, 2**16),
)
def test_adaptive_reuse_keeps_its_floor_its_cap_and_its_distance_over_all_lives(
    min_reuse: int,
    extra_reuse: int,
    distance: int,
    extra: int,
    window: int,
    lives: list[tuple[int, int]],
    seed: int,
) -> None:
    policy = ReusePolicy(min_reuse=min_reuse, max_reuse=min_reuse + extra_reuse, min_distance_steps=distance)
    uses: Counter[int] = Counter()
    used_at: dict[int, int] = {}
    whole, step = FeedState.beginning(0, 1), 0
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for life, (world_size, num_steps) in enumerate(lives):
            settings = {"capacity": 4 * distance + extra, "groups": 4, "window": window, "seed": seed + life}
            shares = [whole.share(rank, world_size) for rank in range(world_size)]
            feeds = [_feed(Path(folder), state=state, step=step, policy=policy, **settings) for state in shares]
            for feed in feeds:
                stack.enter_context(feed)
            for step in range(step, step + num_steps):  # noqa: B020 - a life goes on where the last has ended
                batches = [feed.take(step) for feed in feeds]
                indices = [index for batch in batches for index in batch.indices]
                assert len(set(indices)) == len(indices) == 4
                assert all(step - used_at[index] >= distance for index in indices if index in used_at)
                used_at.update(dict.fromkeys(indices, step))
                uses.update(indices)
            step += 1
            whole = _through_json([feed.state for feed in feeds])
            kept = {entry.index for entry in whole.kept}
            entered = {*range(whole.cursor), *whole.entered}
            assert max(uses.values()) <= policy.max_reuse
            assert all(uses[index] >= min_reuse for index in entered - kept), "nothing leaves before its floor"
            assert all(entry.used_at == used_at.get(entry.index, -1) for entry in whole.kept)


def test_a_use_takes_some_of_the_images_and_names_them_right(tmp_path: Path) -> None:
    with _feed(tmp_path, made=10, images_per_use=6, reuse=4) as feed:
        batches = [feed.take(step) for step in range(8)]
    chosen: dict[tuple[int, int], list[int]] = {}
    for batch in batches:
        assert batch.images.shape == (3 * 6, 8, 8, 3)
        for position, index in enumerate(batch.indices):
            rows = slice(6 * position, 6 * position + 6)
            numbers = (batch.sample_ids[position] - index * MAX_IMAGES_PER_GROUP).tolist()
            echo = int(batch.echoes[6 * position])
            assert batch.echoes[rows].tolist() == [echo] * 6
            assert [image[0, 0, 0] for image in batch.images[rows].numpy()] == [
                (index + 16 * number) % 256 for number in numbers
            ], "the names are those of the pixels"
            chosen[index, echo] = numbers
    with LedgerReader(tmp_path) as ledger:
        uses = [use for step in range(8) for use in ledger.uses(step)]
    assert {(use.group.index, use.echo): list(use.images) for use in uses} == chosen, "what a replay takes"
    assert len({tuple(numbers) for numbers in chosen.values()}) > 10, "each use draws anew"
