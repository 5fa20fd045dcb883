"""The tickets that a rank waits for: which is where, in which order they were planned, how much memory they may take.

Bookkeeping only: nothing here knows of time-outs or of what producers are worth. An entry's life is PLANNED → ISSUED →
RUNNING → BUFFERED, and it leaves the table when its group is delivered. A ticket in two producers' hands at once is
hedged: the first group that comes counts.
"""

import heapq
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from penstock.protocol.actions import Deliver
from penstock.protocol.tickets import Attempt, Ticket

_SUSPICIOUS = 2
"""Attempts that went wrong, after which a ticket is made alone: then poison costs no other ticket."""


class TicketState(Enum):
    """Where a ticket is while the rank waits for its group."""

    PLANNED = auto()
    """In nobody's hands."""
    ISSUED = auto()
    """Held by a producer that has not begun."""
    RUNNING = auto()
    """Being made."""
    BUFFERED = auto()
    """Its group is here and waits for those before it."""
    QUARANTINED = auto()
    """It went wrong too often; a stand-in takes its place."""


class Fault(Enum):
    """Whose fault it is that an attempt has ended without a group."""

    NOBODY = auto()
    """It had not begun, or its producer said goodbye."""
    PRODUCER = auto()
    """Its group was garbled."""
    UNKNOWN = auto()
    """It had begun and was lost with its producer, or took far too long: bad luck, or poison."""
    TICKET = auto()
    """The producer could not make it, or made it black."""


@dataclass(slots=True)
class Hold:
    """One live attempt: a ticket in a producer's hands. Times are seconds on the rank's monotonic clock."""

    holder: bytes
    key: Attempt
    issued_at: float
    named_at: float
    """When a heartbeat last named it."""
    alone: bool
    """Whether it is made in a batch of its own."""
    started_at: float | None = None


@dataclass(slots=True)
class Entry:
    """A ticket with its live attempts."""

    place: int
    """Its place in the plan."""
    ticket: Ticket
    """As it would be handed out next."""
    holds: list[Hold] = field(default_factory=list)
    """None while planned, one in a producer's hands, two while hedged."""
    group: Deliver | None = None
    quarantined: bool = False
    failures: int = 0
    """Attempts that speak against the ticket."""
    losses: int = 0
    """Attempts that were lost in company: one of the batch may be poison."""
    failed_by: set[bytes] = field(default_factory=set)
    """Who held them; others are tried first."""
    withheld_since: float | None = None
    """Since when there has been room only with those who have failed it."""

    @property
    def state(self) -> TicketState:
        """Where the ticket is."""
        if self.quarantined:
            return TicketState.QUARANTINED
        if self.group is not None:
            return TicketState.BUFFERED
        if any(hold.started_at is not None for hold in self.holds):
            return TicketState.RUNNING
        return TicketState.ISSUED if self.holds else TicketState.PLANNED

    @property
    def model_digest(self) -> str:
        """Whose images the ticket asks for."""
        return self.ticket.recipe.model_digest

    def count(self, hold: Hold, fault: Fault) -> None:
        """An attempt has ended without a group. What is lost speaks against the ticket only where it was made alone."""
        if fault is Fault.NOBODY:
            return
        self.failed_by.add(hold.holder)
        if fault is Fault.TICKET or (fault is Fault.UNKNOWN and hold.alone):
            self.failures += 1
        elif fault is Fault.UNKNOWN:
            self.losses += 1

    def held_by(self, holder: bytes) -> Hold | None:
        """The live attempt in these hands."""
        return next((hold for hold in self.holds if hold.holder == holder), None)


class TicketTable:
    """Tickets from the plan to the delivery of their groups.

    Args:
        in_order: deliver groups in the order of the plan, not as they come.
    """

    def __init__(self, *, in_order: bool) -> None:
        self._in_order = in_order
        self._entries: dict[int, Entry] = {}  # in the order of the plan
        self._planned: dict[str, list[tuple[int, int]]] = {}  # by model digest a heap of (place, index)
        self._next_place = 0
        self._untaken: dict[int, int] = {}
        self.reserved_bytes = 0
        """Bytes of all groups that are asked for, once for each live attempt, or that are here and not yet taken."""

    def __len__(self) -> int:
        """Tickets whose group has not been delivered."""
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        """In the order of the plan."""
        return iter(self._entries.values())

    @property
    def num_untaken(self) -> int:
        """Groups that were delivered and that nobody has taken yet."""
        return len(self._untaken)

    @property
    def untaken_bytes(self) -> int:
        """Bytes of these groups."""
        return sum(self._untaken.values())

    def count(self) -> Counter[TicketState]:
        """How many tickets are in each state."""
        return Counter(entry.state for entry in self._entries.values())

    @property
    def head(self) -> Entry | None:
        """The first ticket of the plan whose group has not been delivered."""
        return next(iter(self._entries.values()), None)

    def get(self, index: int) -> Entry | None:
        """The entry at a global index."""
        return self._entries.get(index)

    def plan(self, ticket: Ticket) -> None:
        """Add a ticket behind all others. Raises ValueError where its index is in the table or not yet taken."""
        if ticket.index in self._entries or ticket.index in self._untaken:
            raise ValueError(f"ticket {ticket.index} is planned already")
        entry = self._entries[ticket.index] = Entry(self._next_place, ticket)
        self._next_place += 1
        self.reserved_bytes += ticket.recipe.nbytes
        self.put_back(entry)

    def stand_in(self, ticket: Ticket) -> None:
        """Put `ticket` in the place of the quarantined one of the same index.

        Its attempts go on counting, so that nothing that was made for the other one passes for its own. Raises
        ValueError where there is no quarantined ticket of that index, or where it was for another model.
        """
        entry = self._entries.get(ticket.index)
        if entry is None or not entry.quarantined:
            raise ValueError(f"ticket {ticket.index} is not quarantined")
        if ticket.recipe.model_digest != entry.model_digest:
            raise ValueError(f"the stand-in of ticket {ticket.index} must be for the same model")
        self.reserved_bytes += ticket.recipe.nbytes - entry.ticket.recipe.nbytes
        entry.ticket = replace(ticket, attempt=entry.ticket.attempt)
        entry.quarantined, entry.failures, entry.losses = False, 0, 0
        entry.failed_by.clear()
        self.put_back(entry)

    @property
    def heads(self) -> list[Entry]:
        """The tickets that all wait for: the head; and where no order is kept, the first of every model's."""
        if self._in_order:
            return [] if self.head is None else [self.head]
        first: dict[str, Entry] = {}
        for entry in self._entries.values():
            first.setdefault(entry.model_digest, entry)
            if len(first) == len(self._planned):
                break
        return list(first.values())

    @property
    def has_planned(self) -> bool:
        """Whether `pop_planned` may find something."""
        return any(self._planned.values())

    def pop_planned(self, model_digests: Collection[str]) -> Entry | None:
        """The first ticket of the plan for any of these models that is in nobody's hands.

        It is to be issued or put back.
        """
        heaps = [heap for digest, heap in self._planned.items() if digest in model_digests]
        while any(heaps):
            heap = min(heap for heap in heaps if heap)
            entry = self._entries.get(heapq.heappop(heap)[1])
            if entry is not None and entry.state is TicketState.PLANNED:
                return entry
        return None

    def put_back(self, entry: Entry) -> None:
        """What `pop_planned` returned could not be issued."""
        heapq.heappush(self._planned.setdefault(entry.model_digest, []), (entry.place, entry.ticket.index))

    def issue(self, entry: Entry, holder: bytes, now: float) -> Ticket:
        """Put the ticket into a producer's hands; returns it as it is to be sent."""
        ticket = replace(entry.ticket, alone=entry.failures + entry.losses >= _SUSPICIOUS)
        if entry.holds:
            self.reserved_bytes += ticket.recipe.nbytes
        entry.holds.append(Hold(holder, ticket.key, issued_at=now, named_at=now, alone=ticket.alone))
        entry.ticket = ticket.again()
        entry.withheld_since = None
        return ticket

    def release(self, entry: Entry, hold: Hold) -> None:
        """Take the ticket out of these hands; it is planned again where no other holds it."""
        entry.holds.remove(hold)
        if entry.holds:
            self.reserved_bytes -= entry.ticket.recipe.nbytes
        elif entry.state is TicketState.PLANNED:
            self.put_back(entry)

    def quarantine(self, entry: Entry) -> None:
        """Hand the ticket out no more; for one that nobody holds."""
        entry.quarantined = True

    def buffer(self, entry: Entry, group: Deliver) -> list[Deliver]:
        """The group is here, in no producer's hands any more. Returns what is delivered now, in order."""
        entry.group = group
        if not self._in_order:
            return [self._deliver(entry, group)]
        delivered = []
        while (head := self.head) is not None and head.group is not None:
            delivered.append(self._deliver(head, head.group))
        return delivered

    def take(self, index: int) -> None:
        """A delivered group has been taken: its memory counts no longer. Raises KeyError where it was not delivered."""
        self.reserved_bytes -= self._untaken.pop(index)

    def _deliver(self, entry: Entry, group: Deliver) -> Deliver:
        index = entry.ticket.index
        del self._entries[index]
        self._untaken[index] = entry.ticket.recipe.nbytes
        return group
