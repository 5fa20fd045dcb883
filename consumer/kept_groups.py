"""Groups that are in memory, in the place of a stream: for measuring what follows it without waiting for it.

A few groups stand for as many as are asked for: each ticket is answered at once with the pixels of one of them.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from penstock.consumer.group import Group, Quarantined
from penstock.consumer.stream import GroupStream
from penstock.protocol.errors import RunError
from penstock.protocol.tickets import Ticket
from penstock.telemetry.recorder import Recorder


class Groups(Protocol):
    """Where a feed takes its groups from; `GroupStream` says what each does."""

    recorder: Recorder

    def ask(self, tickets: Iterator[Ticket], stand_in: Callable[[Ticket], Ticket]) -> None:
        """Ask for `tickets` from now on."""

    def get(self) -> Group:
        """The next group; waits for it."""

    def poll(self) -> Group | None:
        """The next group if it is there."""

    def quarantined(self) -> list[Quarantined]:
        """Tickets that got a stand-in since the last call."""

    def abandon(self) -> None:
        """Let `get` end with a RunError, now and from now on."""


class KeptGroups:
    """Answers every ticket with what is in memory; only the first tickets where a stream follows.

    Args:
        groups: at least one; used again and again.
        groups_per_step: how many are there at a time for whoever takes what is there (`poll`), so that a reservoir that
            is full gets as many as leave it with a step.
        then: whom the second `ask`, and all after it, is for.
        age_s: how long ago the group at a global index came, as it were.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        groups_per_step: int = 1,
        then: GroupStream | None = None,
        age_s: Callable[[int], float] = lambda index: 0.0,
    ) -> None:
        self.recorder = then.recorder if then is not None else Recorder()
        self._groups = itertools.cycle(groups)
        self._groups_per_step = groups_per_step
        self._polled = 0
        self._then = then
        self._age_s = age_s
        self._tickets: Iterator[Ticket] | None = None
        self._abandoned = False
        self.last_index = -1
        """The highest global index that was asked for here."""

    def ask(self, tickets: Iterator[Ticket], stand_in: Callable[[Ticket], Ticket]) -> None:
        """Answer these from memory; those of a second call are the stream's."""
        if self._then is not None and self._tickets is not None:
            self._then.ask(tickets, stand_in)
        else:
            self._tickets = tickets

    def get(self) -> Group:
        """The next group; waits only where it is the stream's. Raises as `GroupStream.get`."""
        group = self._answer()
        if group is None:
            if self._then is None:
                raise RunError("there are no more tickets")
            return self._then.get()
        return group

    def poll(self) -> Group | None:
        """The next group if it is there."""
        if self._then is not None:
            return self._then.poll()
        if self._polled == self._groups_per_step:
            self._polled = 0
            return None
        self._polled += 1
        return self._answer()

    def quarantined(self) -> list[Quarantined]:
        """As the stream's; none of those in memory."""
        return self._then.quarantined() if self._then is not None else []

    def abandon(self) -> None:
        """As the stream's."""
        self._abandoned = True
        if self._then is not None:
            self._then.abandon()

    def _answer(self) -> Group | None:
        if self._abandoned:
            raise RunError("nobody takes groups any more")
        ticket = next(self._tickets, None) if self._tickets is not None else None
        if ticket is None:
            return None
        self.last_index = max(self.last_index, ticket.index)
        came_ns = time.monotonic_ns() - round(1e9 * self._age_s(ticket.index))
        return replace(next(self._groups), ticket=ticket, arrived_ns=came_ns)
