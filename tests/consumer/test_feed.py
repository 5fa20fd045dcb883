"""The feed: stop after any step, go on in another life, and nothing is lost, repeated or used too often."""

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.consumer.config import GeneratorConfig, ReservoirConfig, TrainConfig
from penstock.consumer.feed import Feed, FeedState
from penstock.consumer.ledger import Ledger
from penstock.consumer.prompts import TicketWriter, open_source
from penstock.consumer.reservoir import Reservoir
from penstock.consumer.stream import Group
from penstock.protocol.errors import RunError
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


class _Stream:
    """A stream whose groups come in any order within the window, sometimes none at once."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._tickets: Iterator[Ticket] = iter(())
        self._window = 0
        self._asked: list[Ticket] = []
        self.most_asked = 0

    def ask(self, tickets: Iterator[Ticket], window_groups: int) -> None:
        self._tickets, self._window = tickets, window_groups

    def _top_up(self) -> None:
        while len(self._asked) < self._window:
            ticket = next(self._tickets, None)
            if ticket is None:
                break
            self._asked.append(ticket)
        self.most_asked = max(self.most_asked, len(self._asked))

    def get(self) -> Group:
        self._top_up()
        assert self._asked, "the feed waits for a group that it has not asked for"
        ticket = self._asked.pop(self._rng.randrange(len(self._asked)))
        return Group(ticket, np.full(ticket.recipe.shape, ticket.index % 256, np.uint8), "ann", MANIFEST)

    def poll(self) -> Group | None:
        self._top_up()
        return self.get() if self._asked and self._rng.random() < 0.7 else None


def _feed(
    tmp_path: Path,
    stream: _Stream,
    *,
    reuse: int = 2,
    capacity: int = 6,
    batch: int = 3,
    window: int = 5,
    rank: int = 0,
    world_size: int = 1,
    resume: FeedState | None = None,
) -> Feed:
    config = TrainConfig(
        groups_per_step=max(2, batch * world_size),
        generator=GeneratorConfig(images_per_group=2, num_inference_steps=1, height=8, width=8),
        reservoir=ReservoirConfig(reuse=reuse, capacity_groups=max(2, capacity * world_size)),
    )
    return Feed(
        stream=stream,  # type: ignore[arg-type]
        writer=TicketWriter(open_source("toyworld", 0), config, "digest"),
        reservoir=Reservoir(capacity_groups=capacity, reuse=reuse, seed=(0, rank)),
        ledger=Ledger(tmp_path / f"ledger-{rank}.jsonl", {}),
        rank=rank,
        world_size=world_size,
        groups_per_batch=batch,
        window_groups=window,
        resume=resume,
        pin_memory=False,
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    reuse=st.integers(1, 4),
    batch=st.integers(1, 4),
    extra=st.integers(0, 5),
    window=st.integers(1, 8),
    ranks=st.sampled_from([(0, 1), (0, 2), (1, 2), (2, 3)]),
    lives=st.lists(st.integers(1, 12), min_size=2, max_size=4),
    seed=st.integers(0, 2**16),
)
def test_however_often_a_run_is_stopped_every_group_enters_once_and_is_used_as_asked(
    tmp_path: Path,
    reuse: int,
    batch: int,
    extra: int,
    window: int,
    ranks: tuple[int, int],
    lives: list[int],
    seed: int,
) -> None:
    rank, world_size = ranks
    uses: Counter[int] = Counter()
    state: FeedState | None = None
    step = 0
    for life, steps in enumerate(lives):
        feed = _feed(
            tmp_path,
            _Stream(seed + life),
            reuse=reuse,
            capacity=batch + extra,
            batch=batch,
            window=window,
            rank=rank,
            world_size=world_size,
            resume=state,
        )
        for _ in range(steps):
            made = feed.batch(step)
            step += 1
            assert len(set(made.indices)) == batch
            for position, index in enumerate(made.indices):
                assert index % world_size == rank
                assert made.echoes[2 * position].item() == uses[index], "uses are counted over all lives"
            uses.update(made.indices)
        state = FeedState.from_json(json.loads(json.dumps(feed.state.to_json())))
        assert state == feed.state
        kept = dict(state.kept)
        entered = {*range(rank, state.cursor, world_size), *state.entered}
        assert max(uses.values()) <= reuse
        assert {index for index in entered if uses[index] < reuse} == set(kept)
        assert all(uses[index] == kept.get(index, reuse) for index in entered)
        assert set(uses) <= entered
        assert len(kept) <= batch + extra


def test_a_lost_tail_is_made_again_because_the_cursor_stands_at_the_step(tmp_path: Path) -> None:
    stream = _Stream(0)
    feed = _feed(tmp_path, stream, reuse=1, capacity=3, batch=3, window=50)
    feed.batch(0)
    assert stream.most_asked > 6, "prefetch runs ahead"
    state = feed.state
    entered = {*range(state.cursor), *state.entered}
    assert len(entered) == 3, "but only what entered the reservoir counts"


def test_the_ledger_names_each_group_before_the_steps_that_use_it(tmp_path: Path) -> None:
    feed = _feed(tmp_path, _Stream(1), reuse=3)
    batches = [feed.batch(step).indices for step in range(10)]
    lines = [json.loads(line) for line in (tmp_path / "ledger-0.jsonl").read_text().splitlines()]
    known: set[int] = set()
    steps = []
    for line in lines[1:]:
        if "group" in line:
            known.add(line["group"])
        elif "step" in line:
            assert set(line["groups"]) <= known
            steps.append(tuple(line["groups"]))
    assert steps == batches


def test_another_number_of_ranks_is_refused_with_the_right_one(tmp_path: Path) -> None:
    state = FeedState(rank=1, world_size=4, cursor=9, entered=[], kept=[])
    with pytest.raises(RunError, match=r"rank 1 of 4.*rank 0 of 1.*--num_processes 4"):
        _feed(tmp_path, _Stream(0), resume=state)


def test_a_smaller_reservoir_than_the_checkpoint_needs_is_refused(tmp_path: Path) -> None:
    kept = [(index, 1) for index in range(7)]
    state = FeedState(rank=0, world_size=1, cursor=7, entered=[], kept=kept)
    with pytest.raises(RunError, match=r"7 groups.*holds 6.*capacity_groups"):
        _feed(tmp_path, _Stream(0), resume=state)


def test_counts_are_of_pixels_handed_out(tmp_path: Path) -> None:
    feed = _feed(tmp_path, _Stream(0))
    for step in range(4):
        feed.batch(step)
    assert feed.wait_s >= 0


def test_the_newest_groups_have_different_prompts(tmp_path: Path) -> None:
    feed = _feed(tmp_path, _Stream(0), capacity=40, batch=3, window=40, reuse=9)
    for step in range(5):
        feed.batch(step)
    newest = feed.newest(4)
    prompts = [group.ticket.recipe.prompt for group in newest]
    assert len(set(prompts)) == len(prompts) == 4
    indices = [group.ticket.index for group in newest]
    assert indices == sorted(indices, reverse=True)


def test_there_are_groups_to_show_though_the_reservoir_is_used_up(tmp_path: Path) -> None:
    feed = _feed(tmp_path, _Stream(0), reuse=1, capacity=3, batch=3, window=3)
    batch = feed.batch(0)
    assert {group.ticket.index for group in feed.newest(3)} <= set(batch.indices)
    assert feed.newest(3)


def test_state_survives_json_exactly() -> None:
    state = FeedState(rank=0, world_size=2, cursor=4, entered=[6, 10], kept=[(0, 1), (6, 0)])
    assert FeedState.from_json(json.loads(json.dumps(state.to_json()))) == state
    assert replace(state, cursor=6) != state
