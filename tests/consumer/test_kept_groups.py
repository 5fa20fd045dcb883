"""Groups of memory in a stream's place: every ticket is answered at once, and what follows is the stream's."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from penstock.consumer.group import Group
from penstock.consumer.kept_groups import KeptGroups
from penstock.consumer.stream import GroupStream
from penstock.protocol.errors import RunError
from penstock.protocol.tickets import Manifest, Recipe, Ticket
from penstock.telemetry.recorder import Recorder

RECIPE = Recipe(
    prompt="a fox",
    seed=1,
    num_images=2,
    guidance_scales=(1.0,),
    num_inference_steps=4,
    scheduler="DDIMScheduler",
    height=8,
    width=8,
    model_digest="abc",
)
MANIFEST = Manifest(
    model="m",
    model_digest="abc",
    scheduler="s",
    dtype="uint8",
    backend="paced",
    device="none",
    batch_images=4,
    versions={},
)


def _ticket(index: int) -> Ticket:
    return Ticket(index=index, rank=0, need_by_step=0, recipe=RECIPE)


def _group(index: int, shade: int) -> Group:
    return Group(_ticket(index), np.full((2, 8, 8, 3), shade, np.uint8), "ann", MANIFEST)


def _refuse(ticket: Ticket) -> Ticket:
    raise AssertionError(f"nothing stands in for {ticket.index}")


class _Stream:
    """What of a stream is used here."""

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.asked: list[int] = []
        self.abandoned = False

    def ask(self, tickets: Iterator[Ticket], stand_in: Callable[[Ticket], Ticket]) -> None:
        self.asked += [ticket.index for ticket in tickets]

    def get(self) -> Group:
        return _group(99, 9)

    def poll(self) -> Group | None:
        return None

    def abandon(self) -> None:
        self.abandoned = True


def test_every_ticket_gets_the_pixels_of_the_next_group_under_its_own_name() -> None:
    kept = KeptGroups([_group(7, 10), _group(8, 20)])
    kept.ask(map(_ticket, range(5)), _refuse)
    groups = [kept.get() for _ in range(5)]
    assert [group.ticket.index for group in groups] == [0, 1, 2, 3, 4]
    assert [int(group.images[0, 0, 0, 0]) for group in groups] == [10, 20, 10, 20, 10]
    assert kept.last_index == 4
    with pytest.raises(RunError, match="no more tickets"):
        kept.get()


def test_what_is_there_at_a_time_is_what_leaves_with_a_step() -> None:
    kept = KeptGroups([_group(7, 10)], groups_per_step=2)
    kept.ask(map(_ticket, range(100)), _refuse)
    answers = [kept.poll() for _ in range(6)]
    assert [answer is None for answer in answers] == [False, False, True, False, False, True]


def test_the_second_question_is_the_streams() -> None:
    stream = _Stream()
    kept = KeptGroups([_group(7, 10)], then=cast(GroupStream, stream), age_s=lambda index: 100.0 * index)
    kept.ask(map(_ticket, range(1, 3)), _refuse)
    assert kept.recorder is stream.recorder
    assert kept.poll() is None, "what has come to the stream"
    ages = [(time.monotonic_ns() - kept.get().arrived_ns) * 1e-9 for _ in range(2)]
    assert ages == pytest.approx([100, 200], abs=1)
    kept.ask(map(_ticket, range(10, 13)), _refuse)
    assert stream.asked == [10, 11, 12]
    assert kept.get().ticket.index == 99


def test_who_waits_is_told_that_nobody_takes_groups_any_more() -> None:
    stream = _Stream()
    kept = KeptGroups([replace(_group(7, 10))], then=cast(GroupStream, stream))
    kept.ask(map(_ticket, range(3)), _refuse)
    kept.abandon()
    assert stream.abandoned
    with pytest.raises(RunError, match="nobody takes groups any more"):
        kept.get()
