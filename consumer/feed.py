"""Feeds one rank: from the stream into the reservoir, from the reservoir into batches.

It also keeps the cursor of the stream at the optimizer step, not at prefetch: which of the rank's groups have
entered the reservoir, and how often those in it have been used. That is all that is needed to go on without loss or
repetition.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from penstock.consumer.batch import Batch, collate
from penstock.consumer.ledger import Ledger
from penstock.consumer.prompts import TicketWriter, owned_indices
from penstock.consumer.reservoir import Reservoir
from penstock.consumer.stream import Group, GroupStream
from penstock.protocol.errors import RunError
from penstock.protocol.tickets import Ticket


@dataclass(frozen=True, slots=True)
class FeedState:
    """Where a rank stands in the stream: part of a checkpoint."""

    rank: int
    world_size: int
    cursor: int
    """The lowest owned index that has not entered the reservoir."""
    entered: list[int]
    """Indices beyond the cursor that have entered, because groups come in any order."""
    kept: list[tuple[int, int]]
    """(index, uses) of the groups in the reservoir."""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "FeedState":
        """From `to_json`."""
        return cls(**{**value, "kept": [(index, uses) for index, uses in value["kept"]]})


class Feed:
    """Batches for one rank.

    Args:
        stream: started.
        writer: writes the tickets that the stream asks for.
        reservoir: this rank's, empty.
        ledger: this rank's.
        rank, world_size: which indices are ours.
        groups_per_batch: groups in this rank's share of a batch.
        window_groups: groups asked for and unused at a time.
        resume: where an earlier life stood.
        pin_memory: whether batches go to a GPU.
    """

    def __init__(
        self,
        *,
        stream: GroupStream,
        writer: TicketWriter,
        reservoir: Reservoir,
        ledger: Ledger,
        rank: int,
        world_size: int,
        groups_per_batch: int,
        window_groups: int,
        resume: FeedState | None,
        pin_memory: bool,
    ) -> None:
        if resume is not None and (resume.rank, resume.world_size) != (rank, world_size):
            raise RunError(
                f"the checkpoint was written by rank {resume.rank} of {resume.world_size}, this is rank {rank} of "
                f"{world_size}; resume with --num_processes {resume.world_size}"
            )
        if resume is not None and len(resume.kept) > reservoir.capacity_groups:
            raise RunError(
                f"the checkpoint keeps {len(resume.kept)} groups on this rank, the reservoir holds "
                f"{reservoir.capacity_groups}; resume with the reservoir.capacity_groups of the run"
            )
        self._stream = stream
        self._writer = writer
        self._reservoir = reservoir
        self._ledger = ledger
        self._rank, self._world_size = rank, world_size
        self._groups_per_batch = groups_per_batch
        self._window_groups = window_groups
        self._pin_memory = pin_memory
        self._cursor = resume.cursor if resume else rank
        self._entered = set(resume.entered) if resume else set[int]()
        self._returning = dict(resume.kept) if resume else dict[int, int]()
        self._last_batch: list[Group] = []
        self.wait_s = 0.0
        """Seconds that `batch` has waited for groups."""
        stream.ask(self._returning_tickets() if self._returning else self._new_tickets(), window_groups)

    def batch(self, step: int) -> Batch:
        """The batch of optimizer step `step`. Waits where groups are lacking. Raises StarvedError."""
        start = time.perf_counter()
        if self._returning:
            self._restore()
        while not self._reservoir.full and (group := self._stream.poll()):
            self._enter(group)
        while len(self._reservoir) < self._groups_per_batch:
            self._enter(self._stream.get())
        self.wait_s += time.perf_counter() - start
        uses = self._reservoir.draw(self._groups_per_batch, step)
        self._last_batch = [use.group for use in uses]
        batch = collate(uses, pin_memory=self._pin_memory)
        self._ledger.step(step, batch.indices)
        return batch

    @property
    def state(self) -> FeedState:
        """Where the rank stands after the last batch."""
        return FeedState(
            rank=self._rank,
            world_size=self._world_size,
            cursor=self._cursor,
            entered=sorted(self._entered),
            kept=[(group.ticket.index, uses) for group, uses in self._reservoir.contents],
        )

    def newest(self, num_groups: int) -> list[Group]:
        """Groups of the last batch and the reservoir with different prompts, the newest first."""
        groups = [*self._last_batch, *(group for group, _ in self._reservoir.contents)]
        groups.sort(key=lambda group: group.ticket.index)
        by_prompt = {group.ticket.recipe.prompt: group for group in groups}  # of one prompt the newest stays
        return sorted(by_prompt.values(), key=lambda group: -group.ticket.index)[:num_groups]

    def _restore(self) -> None:
        """Fill the reservoir with what an earlier life had in it, before anything new may take its place."""
        while self._returning:
            self._enter(self._stream.get())
        self._stream.ask(self._new_tickets(), self._window_groups)

    def _returning_tickets(self) -> Iterator[Ticket]:
        """What an earlier life had in its reservoir."""
        for index in tuple(self._returning):
            yield self._writer.write(index, self._rank)

    def _new_tickets(self) -> Iterator[Ticket]:
        """What has never entered."""
        entered = frozenset(self._entered)
        for index in owned_indices(self._rank, self._world_size, self._cursor):
            if index not in entered:
                yield self._writer.write(index, self._rank)

    def _enter(self, group: Group) -> None:
        index = group.ticket.index
        self._reservoir.put(group, uses=self._returning.pop(index, 0))
        self._ledger.group(group)
        if index >= self._cursor:
            self._entered.add(index)
        while self._cursor in self._entered:
            self._entered.remove(self._cursor)
            self._cursor += self._world_size
