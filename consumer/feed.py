"""Feeds one rank: from the stream into the reservoir, from the reservoir into batches.

It also keeps the cursor of the stream at the optimizer step, not at prefetch: which of the rank's groups have
entered the reservoir, and how often those in it have been used. That is all that is needed to go on without loss or
repetition. Batches are prepared ahead of their steps by a thread of their own (`prefetch.py`), so each carries
what the ledger and the checkpoint must say once its step takes it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from penstock.consumer.batch import NO_READER, Batch, Reader, collate
from penstock.consumer.feed_state import Entered, FeedState, Kept
from penstock.consumer.group import Group, Quarantined
from penstock.consumer.kept_groups import Groups
from penstock.consumer.prompts.writer import TicketWriter
from penstock.consumer.reservoir import Reservoir
from penstock.consumer.schedule import Order, images_of_use
from penstock.protocol.tickets import Attempt, Ticket
from penstock.telemetry.recorder import Flow, Recorder


@dataclass(frozen=True, slots=True)
class Prepared:
    """A step's batch, and what happened on the way to it since the step before."""

    step: int
    batch: Batch
    keys: tuple[Attempt, ...]
    """Which attempt each of the batch's groups came by, length G."""
    arrived_ns: tuple[int, ...]
    """When each of them came, on the monotonic clock, length G."""
    uses: tuple[int, ...]
    """Earlier uses of each of the batch's groups, length G."""
    concepts: tuple[int, ...]
    """Class of each of them, -1 where it has none, length G; on the host, where the batch may be no more."""
    entered: tuple[Group, ...]
    """Groups that came into the reservoir."""
    entered_concepts: tuple[str, ...]
    """The concept of each of their prompts; empty where it has none."""
    num_new: int
    """How many of them had not been there in an earlier life."""
    quarantined: tuple[Quarantined, ...]
    state: FeedState | None
    """Where the rank stands after the step; None where nobody wants to know."""


class Feed:
    """Prepares batches for one rank; for one thread.

    Args:
        stream: started, or what stands in its place.
        writer: writes the tickets that the stream asks for, in the stream's thread.
        order: what enters when, and what a step draws.
        reservoir: this rank's, empty.
        state: where the rank stands: at its beginning, or where an earlier life has left it.
        step: the step of the first batch.
        seed: the run's; chooses the images of a use.
        images_per_use: images that a step takes of each of its groups; 0 takes all.
        pin_memory: whether batches go to a GPU.
        reader: what batches say of their captions.
        recorder: takes note of waiting and of work; without one the feed has its own.
    """

    def __init__(
        self,
        *,
        stream: Groups,
        writer: TicketWriter,
        order: Order,
        reservoir: Reservoir,
        state: FeedState,
        step: int,
        seed: int,
        images_per_use: int,
        pin_memory: bool,
        reader: Reader = NO_READER,
        recorder: Recorder | None = None,
    ) -> None:
        self._stream = stream
        self._writer = writer
        self._order = order
        self._reservoir = reservoir
        self._rank, self._world_size = state.rank, state.world_size
        self._seed = seed
        self._images_per_use = images_per_use
        self._pin_memory = pin_memory
        self._reader = reader
        self._recorder = recorder or Recorder()
        self._entered = Entered(state.rank, state.world_size, state.cursor, state.entered)
        self._returning = {kept.index: kept for kept in state.kept}
        self._new_tickets = self._tickets_after(state, step)
        self._came: list[Group] = []
        self._num_new = 0
        self._last_batch: list[Group] = []
        self._ask(self._returning_tickets(state, step) if state.kept else self._new_tickets)

    def prepare(self, step: int, *, keeps_state: bool) -> Prepared:
        """The batch of optimizer step `step`. Waits where groups are lacking.

        Args:
            step: one after the other.
            keeps_state: whether to note where the rank stands after the step.

        Raises:
            StarvedError, RunError: as `GroupStream.get`.
        """
        self._came, self._num_new = [], 0
        if self._returning:
            self._restore()
        self._admit_all()
        while (drawn := self._order.draw(step, self._reservoir.usage)) is None:
            self._admit([self._wait_for_group()])
        uses = self._reservoir.use(drawn, step)
        self._last_batch = [use.group for use in uses]
        images = [self._images(use.group, use.echo) for use in uses]
        with self._recorder.span("collate"):
            batch = collate(uses, images, pin_memory=self._pin_memory, reader=self._reader)
        return Prepared(
            step=step,
            batch=batch,
            keys=tuple(use.group.ticket.key for use in uses),
            arrived_ns=tuple(use.group.arrived_ns for use in uses),
            uses=tuple(use.echo for use in uses),
            concepts=tuple(batch.concepts.tolist()),
            entered=tuple(self._came),
            entered_concepts=tuple(self._writer.concept_name(group.ticket) for group in self._came),
            num_new=self._num_new,
            quarantined=tuple(self._stream.quarantined()),
            state=self.state if keeps_state else None,
        )

    @property
    def state(self) -> FeedState:
        """Where the rank stands after the last batch."""
        usage = self._reservoir.usage
        return FeedState(
            rank=self._rank,
            world_size=self._world_size,
            cursor=self._entered.cursor,
            entered=tuple(sorted(self._entered.beyond)),
            kept=tuple(
                Kept(
                    group.ticket.index,
                    usage[group.ticket.index].uses,
                    group.ticket.stand_in,
                    usage[group.ticket.index].used_at,
                )
                for group in self._reservoir.groups
            ),
        )

    @property
    def num_kept(self) -> int:
        """Groups in the reservoir. This, and what follows, for any thread."""
        return len(self._reservoir)

    @property
    def kept_bytes(self) -> int:
        """Bytes of them."""
        return self._reservoir.nbytes

    @property
    def capacity_groups(self) -> int:
        """Groups that the reservoir can keep."""
        return self._reservoir.capacity_groups

    def newest(self, num_groups: int) -> list[Group]:
        """Groups of the last batch and the reservoir with different prompts, the newest first."""
        groups = sorted([*self._last_batch, *self._reservoir.groups], key=lambda group: group.ticket.index)
        by_prompt = {group.ticket.recipe.prompt: group for group in groups}  # of one prompt the newest stays
        return sorted(by_prompt.values(), key=lambda group: -group.ticket.index)[:num_groups]

    def abandon(self) -> None:
        """Let a `prepare` that waits end with an error. For another thread."""
        self._stream.abandon()

    def _images(self, group: Group, echo: int) -> list[int]:
        num_images = len(group.images)
        return images_of_use(self._seed, group.ticket.index, echo, num_images, self._images_per_use or num_images)

    def _ask(self, tickets: Iterator[Ticket]) -> None:
        self._stream.ask(tickets, self._writer.stand_in)

    def _restore(self) -> None:
        """Fill the reservoir with what an earlier life had in it, before anything new may take its place."""
        while self._returning:
            self._put(self._wait_for_group())
        self._ask(self._new_tickets)

    def _returning_tickets(self, state: FeedState, step: int) -> Iterator[Ticket]:
        """What an earlier life had in its reservoir."""
        for kept in state.kept:
            yield self._writer.write(kept.index, self._rank, step, kept.stand_in)

    def _tickets_after(self, state: FeedState, step: int) -> Iterator[Ticket]:
        """What has never entered."""
        for entry in self._order.upcoming(state, step):
            yield self._writer.write(entry.index, self._rank, entry.need_by_step)

    def _admit_all(self) -> None:
        """Take what is there, as far as it can be kept."""
        room = self._reservoir.room
        groups: list[Group] = []
        while len(groups) < room and (group := self._stream.poll()):
            groups.append(group)
        self._admit(groups)

    def _admit(self, groups: list[Group]) -> None:
        self._reservoir.make_room(len(groups))
        for group in groups:
            self._put(group)

    def _wait_for_group(self) -> Group:
        with self._recorder.span("wait_groups"):
            return self._stream.get()

    def _put(self, group: Group) -> None:
        index = group.ticket.index
        self._recorder.mark("enter", index, group.ticket.attempt, Flow.STEP)
        before = self._returning.pop(index, None)
        self._reservoir.put(group, before.usage if before else None)
        self._num_new += before is None
        self._entered.add(index)
        self._came.append(group)
