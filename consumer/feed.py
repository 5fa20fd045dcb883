"""Feeds one rank: from the stream into the reservoir, from the reservoir into batches.

It also keeps the cursor of the stream at the optimizer step, not at prefetch: which of the rank's groups have
entered the reservoir, and how often those in it have been used. That is all that is needed to go on without loss or
repetition.
"""

import time
from collections.abc import Iterator

from penstock.consumer.batch import Batch, collate
from penstock.consumer.feed_state import Entered, FeedState, Kept
from penstock.consumer.ledger import Ledger
from penstock.consumer.prompts import TicketWriter
from penstock.consumer.reservoir import Reservoir
from penstock.consumer.schedule import Order
from penstock.consumer.stream import Group, GroupStream
from penstock.protocol.tickets import Ticket


class Feed:
    """Batches for one rank.

    Args:
        stream: started.
        writer: writes the tickets that the stream asks for, in the stream's thread.
        order: what enters when, and what a step draws.
        reservoir: this rank's, empty.
        ledger: this rank's.
        state: where the rank stands: at its beginning, or where an earlier life has left it.
        step: the step of the first batch.
        pin_memory: whether batches go to a GPU.
    """

    def __init__(
        self,
        *,
        stream: GroupStream,
        writer: TicketWriter,
        order: Order,
        reservoir: Reservoir,
        ledger: Ledger,
        state: FeedState,
        step: int,
        pin_memory: bool,
    ) -> None:
        self._stream = stream
        self._writer = writer
        self._order = order
        self._reservoir = reservoir
        self._ledger = ledger
        self._rank, self._world_size = state.rank, state.world_size
        self._pin_memory = pin_memory
        self._entered = Entered(state.rank, state.world_size, state.cursor, state.entered)
        self._returning = {kept.index: kept.uses for kept in state.kept}
        self._new_tickets = self._tickets_after(state, step)
        self._last_batch: list[Group] = []
        self.wait_s = 0.0
        """Seconds that `batch` has waited for groups."""
        self._ask(self._returning_tickets(state, step) if state.kept else self._new_tickets)

    def batch(self, step: int) -> Batch:
        """The batch of optimizer step `step`. Waits where groups are lacking. Raises StarvedError."""
        start = time.perf_counter()
        if self._returning:
            self._restore()
        while len(self._reservoir) < self._order.groups_needed:
            self._enter(self._stream.get())
        while not self._reservoir.full and (group := self._stream.poll()):
            self._enter(group)
        self.wait_s += time.perf_counter() - start
        uses = self._reservoir.use(self._order.draw(step, self._reservoir.indices))
        self._last_batch = [use.group for use in uses]
        batch = collate(uses, pin_memory=self._pin_memory)
        for record in self._stream.quarantined():
            self._ledger.quarantined(record)
        self._ledger.step(step, batch.indices)
        return batch

    @property
    def state(self) -> FeedState:
        """Where the rank stands after the last batch."""
        contents = self._reservoir.contents
        return FeedState(
            rank=self._rank,
            world_size=self._world_size,
            cursor=self._entered.cursor,
            entered=tuple(sorted(self._entered.beyond)),
            kept=tuple(Kept(group.ticket.index, uses, group.ticket.stand_in) for group, uses in contents),
        )

    def newest(self, num_groups: int) -> list[Group]:
        """Groups of the last batch and the reservoir with different prompts, the newest first."""
        groups = [*self._last_batch, *(group for group, _ in self._reservoir.contents)]
        groups.sort(key=lambda group: group.ticket.index)
        by_prompt = {group.ticket.recipe.prompt: group for group in groups}  # of one prompt the newest stays
        return sorted(by_prompt.values(), key=lambda group: -group.ticket.index)[:num_groups]

    def _ask(self, tickets: Iterator[Ticket]) -> None:
        self._stream.ask(tickets, self._writer.stand_in)

    def _restore(self) -> None:
        """Fill the reservoir with what an earlier life had in it, before anything new may take its place."""
        while self._returning:
            self._enter(self._stream.get())
        self._ask(self._new_tickets)

    def _returning_tickets(self, state: FeedState, step: int) -> Iterator[Ticket]:
        """What an earlier life had in its reservoir."""
        for kept in state.kept:
            yield self._writer.write(kept.index, self._rank, step, kept.stand_in)

    def _tickets_after(self, state: FeedState, step: int) -> Iterator[Ticket]:
        """What has never entered."""
        for entry in self._order.upcoming(state, step):
            yield self._writer.write(entry.index, self._rank, entry.need_by_step)

    def _enter(self, group: Group) -> None:
        index = group.ticket.index
        self._reservoir.put(group, self._returning.pop(index, 0))
        self._entered.add(index)
        self._ledger.group(group)
