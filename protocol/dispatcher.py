"""Who holds which ticket: what a rank has planned, to whom it hands it, when it asks somebody else.

The rules over the two ledgers of `ticket_table` and `fleet`; nothing here knows messages that come in. Times are
seconds on the rank's monotonic clock.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from penstock.protocol.actions import Action, Fail, Note, Quarantine, Send
from penstock.protocol.durations import Durations
from penstock.protocol.fleet import FleetState, Peer, PeerState, Takers, choose
from penstock.protocol.limits import MAX_PER_IMAGE_VALUES, MAX_TICKETS_PER_MESSAGE
from penstock.protocol.messages import Cancel, Tickets
from penstock.protocol.ticket_table import Entry, Fault, Hold, TicketState, TicketTable
from penstock.protocol.tickets import Attempt, Ticket


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long the rank waits before it acts. Raising a time tolerates slower links and means slower recovery."""

    heartbeat_s: float = 1.0
    """How often either side names the tickets that the producer holds."""
    lease_s: float = 10.0
    """How long a ticket stays with a producer that does not name it."""
    deadline_factor: float = 4.0
    """A ticket is taken from a producer that works on it longer than this times its own 95th percentile."""
    cold_start_s: float = 300.0
    """The deadline of a producer that has not finished anything yet."""
    hedge_factor: float = 2.0
    """The ticket that all wait for goes to a second producer after this times the fleet's 95th percentile."""
    hedge_after_groups: int = 8
    """Until as many groups have come nobody knows what is usual, and it goes there after three leases."""
    max_attempts: int = 4
    """Failures of one ticket before it is quarantined."""
    max_quarantined: int = 8
    """Tickets of one model quarantined without a group of it between them before the run stops: then the tickets are
    not to blame."""
    max_bad_results: int = 3
    """Broken groups in a row before a producer is refused."""


class Dispatcher:
    """Hands the tickets of one rank to its producers, and takes them back.

    Args:
        in_order: deliver groups in the order in which their tickets were planned, not as they come.
        window_groups: groups asked for, or here and not yet taken, at a time.
        window_bytes: bytes of them; a ticket in two producers' hands counts twice.
        patience: leases, deadlines and attempts.
    """

    def __init__(self, *, in_order: bool, window_groups: int, window_bytes: int, patience: Patience) -> None:
        self.window_groups = window_groups
        self.window_bytes = window_bytes
        self.patience = patience
        self.sharers = 1
        """Ranks that share the producers' batches."""
        self.peers: dict[bytes, Peer] = {}
        self.fleet = FleetState.WAITING
        """What the rank can hope for: of a run with two kinds of images the worse."""
        self.expired = 0
        """Attempts that ran out of their lease or their deadline."""
        self.hedged = 0
        """Attempts that were handed out beside a living one."""
        self.quarantined = 0
        """Tickets that got a stand-in."""
        self._table = TicketTable(in_order=in_order)
        # What is usual is known for each model apart: to look an image up takes milliseconds, to make one seconds.
        self._service: defaultdict[str, Durations] = defaultdict(partial(Durations, 256))
        self._turnaround: defaultdict[str, Durations] = defaultdict(partial(Durations, 256))
        self._quarantined_in_row: Counter[str] = Counter()
        self._closing = False

    # --- the plan -----------------------------------------------------------------------------------------------------

    @property
    def num_waiting(self) -> int:
        """Tickets whose group has not been delivered: planned, issued, running, buffered or quarantined."""
        return len(self._table)

    @property
    def num_untaken(self) -> int:
        """Groups that were delivered and that nobody has taken yet."""
        return self._table.num_untaken

    @property
    def untaken_bytes(self) -> int:
        """Bytes of these groups."""
        return self._table.untaken_bytes

    def count_tickets(self) -> Counter[TicketState]:
        """How many tickets are in each state, of those whose group has not been delivered."""
        return self._table.count()

    @property
    def num_outstanding(self) -> int:
        """Live attempts: tickets in producers' hands, a hedged one counted twice."""
        return sum(len(peer.held) for peer in self.peers.values())

    @property
    def reserved_bytes(self) -> int:
        """Bytes of all groups that are asked for, once for each live attempt, or that are here and not yet taken."""
        return self._table.reserved_bytes

    @property
    def num_listening(self) -> int:
        """Producers that have not fallen silent."""
        return sum(peer.state is not PeerState.SUSPECT for peer in self.peers.values())

    def room_for(self, nbytes: int) -> bool:
        """Whether a ticket for a group of `nbytes` may be planned: within the window, and so that one can be hedged."""
        num_groups = len(self._table) + self._table.num_untaken
        if num_groups == 0:
            return True
        return num_groups < self.window_groups and self.reserved_bytes + 2 * nbytes <= self.window_bytes

    @property
    def has_worthwhile_room(self) -> bool:
        """Whether so much of the window is free that tickets should be planned now, and not with the next message."""
        free = self.window_groups - len(self._table) - self._table.num_untaken
        return 8 * free >= self.window_groups or not self.num_outstanding

    def plan(self, ticket: Ticket) -> None:
        """Add a ticket to what is wanted, behind all others. It is handed out by the next `issue`.

        Raises ValueError where its index is wanted already, or where its group alone is more than the window.
        """
        if ticket.recipe.nbytes > self.window_bytes:
            raise ValueError(f"a group of {ticket.recipe.nbytes} bytes is more than the window's {self.window_bytes}")
        self._table.plan(ticket)

    def stand_in(self, ticket: Ticket) -> None:
        """Put `ticket` in the place of the quarantined one of its index. Raises ValueError where there is none."""
        self._table.stand_in(ticket)

    def take(self, index: int) -> None:
        """The group at `index` has been taken by the trainer; it fills the window no more."""
        self._table.take(index)

    def describe_wait(self, now: float) -> str:
        """Which ticket the rank waits for, and who holds it, for people."""
        head = self._table.head
        if head is None:
            return f"the first ticket; none is planned yet ({self.fleet.value})"
        text = f"ticket {head.ticket.index} (needed by step {head.ticket.need_by_step})"
        if not head.holds:
            fleet = self._fleet_of(head)
            return f"{text}, {head.state.name.lower()} and held by nobody: {fleet.value}"
        return f"{text}, held by {' and by '.join(self._describe_hold(hold, now) for hold in head.holds)}"

    def _fleet_of(self, entry: Entry) -> FleetState:
        """What this ticket can hope for."""
        return self.fleet

    def _describe_hold(self, hold: Hold, now: float) -> str:
        doing = "not begun" if hold.started_at is None else f"running for {now - hold.started_at:.1f} s"
        state = self.peers[hold.holder].state.value
        return f"{self._name(hold.holder)} ({state}) for {now - hold.issued_at:.1f} s, {doing}"

    # --- out ----------------------------------------------------------------------------------------------------------

    def issue(self, now: float, *, eager: bool = False) -> list[Action]:
        """Hand planned tickets, in the order of the plan, to the producers that would be done first.

        A ticket goes only to producers of its model; those of one model do not wait for room with another's.

        Args:
            now: the time.
            eager: also to a producer that has little room; else its tickets wait for company until the next tick.
        """
        if self._closing or not self._table.has_planned:
            return []  # most calls: what comes in a large fleet are heartbeats
        given: dict[bytes, list[Ticket]] = {}
        not_now: list[Entry] = []
        short = {identity for identity, peer in self.peers.items() if not (eager or peer.has_worthwhile_room)}
        if len(short) == len(self.peers):
            return []
        willing = [(identity, peer) for identity, peer in self.peers.items() if identity not in short]
        models = {peer.model_digest for _, peer in willing}
        takers: dict[tuple[str, int, int], Takers] = {}
        while (entry := self._table.pop_planned(models)) is not None:
            usual, avoided = self._service[entry.model_digest], self._avoided(entry, now)
            kind = (entry.model_digest, entry.ticket.recipe.nbytes, entry.ticket.recipe.num_first)
            if avoided:
                identity = choose(self.peers.items(), entry.ticket, avoided, usual, short, self.sharers)
            else:
                if kind not in takers:
                    takers[kind] = Takers(willing, entry.ticket, usual, self.sharers)
                identity = takers[kind].first
            if identity is not None:
                given.setdefault(identity, []).append(self._hand_out(entry, identity, now))
                # What is known of the others' room holds no longer.
                takers = {} if avoided else {kind: takers[kind]}
                if not avoided:
                    takers[kind].given()
                continue
            not_now.append(entry)
            if not entry.failed_by:
                # None of its producers has room; one that has failed may only wait for somebody else.
                models.remove(entry.model_digest)
                continue
            rooms = (peer.has_room(entry.ticket) for identity, peer in self.peers.items() if identity not in short)
            if entry.withheld_since is None and any(rooms):
                entry.withheld_since = now
        for entry in not_now:
            self._table.put_back(entry)
        return [Send(identity, message) for identity, tickets in given.items() for message in _messages(tickets)]

    def _avoided(self, entry: Entry, now: float) -> set[bytes]:
        """Who should not get a ticket: whoever has failed it. After some time better they than nobody."""
        patience_s = self._idle_patience_s(entry.model_digest)
        is_overdue = entry.withheld_since is not None and now - entry.withheld_since > patience_s
        return set() if is_overdue else entry.failed_by

    def _hedge(self, now: float) -> list[Action]:
        """Hand what all wait for to a second producer, where it is out far longer than usual."""
        if self._table.num_untaken or self._closing:
            return []
        return [action for head in self._table.heads for action in self._hedge_head(head, now)]

    def _hedge_head(self, head: Entry, now: float) -> list[Action]:
        if len(head.holds) != 1:
            return []
        [hold] = head.holds
        if not self._is_late(head, hold, now):
            return []
        if self.reserved_bytes + head.ticket.recipe.nbytes > self.window_bytes:
            return []
        others = ((identity, peer) for identity, peer in self.peers.items() if identity != hold.holder)
        identity = choose(others, head.ticket, head.failed_by, self._service[head.model_digest], sharers=self.sharers)
        if identity is None:
            return []
        self.hedged += 1
        names = f"{self._name(identity)} too, beside {self._name(hold.holder)}"
        ticket = self._hand_out(head, identity, now)
        note = Note(f"ticket {ticket.index} is late ({now - hold.issued_at:.1f} s): it goes to {names}")
        return [Send(identity, Tickets(tickets=(ticket,))), note]

    def _is_late(self, head: Entry, hold: Hold, now: float) -> bool:
        """Whether the ticket that all wait for is out far longer than usual, counted from its start if it has begun."""
        if hold.started_at is not None:
            return now - hold.started_at > self._late_after_s(self._service[head.model_digest])
        return now - hold.issued_at > self._late_after_s(self._turnaround[head.model_digest])

    def _late_after_s(self, usual: Durations) -> float:
        """How long the ticket that all wait for may be out; leases, not experience, until enough has come."""
        if len(usual) < self.patience.hedge_after_groups:
            return 3 * self.patience.lease_s
        return max(self.patience.heartbeat_s, self.patience.hedge_factor * usual.quantile(0.95))

    # --- back ---------------------------------------------------------------------------------------------------------

    def _expire(self, now: float) -> list[Action]:
        """Take back what no heartbeat names, and everything from a producer that works on something far too long."""
        actions: list[Action] = []
        overdue: dict[bytes, list[Attempt]] = {}
        for entry in tuple(self._table):
            for hold in tuple(entry.holds):
                if hold not in entry.holds:
                    continue  # let go with the one before: that was one failure too many
                if now - hold.named_at > self.patience.lease_s:
                    self.expired += 1
                    why = f"its lease with {self._name(hold.holder)} ran out"
                    actions.append(Send(hold.holder, Cancel(attempts=(hold.key,))))
                    actions += self._take_back(entry, hold, why, _lost(hold))
                elif hold.started_at is not None and now - hold.started_at > self._deadline_s(hold.holder):
                    overdue.setdefault(hold.holder, []).append(hold.key)
        for identity, keys in overdue.items():
            self.expired += len(keys)
            why = f"has worked on ticket {keys[0].index} for over {self._deadline_s(identity):.1f} s"
            actions += self._stall(identity, why, overdue=keys)
        return actions

    def _expire_idle(self, now: float) -> list[Action]:
        """Stall those that hold tickets and begin none while the rank waits: an engine may hang between two batches.

        One that is only busy for another rank says READY after its batch, and has lost nothing but its place.
        """
        if self._table.num_untaken:
            return []
        actions: list[Action] = []
        for identity, peer in self.peers.items():
            holds = [hold for _, hold in self._held(identity, tuple(peer.held.values()))]
            if peer.state is not PeerState.READY or not holds or any(hold.started_at is not None for hold in holds):
                continue
            if not any(other is not peer and _could_replace(other, peer) for other in self.peers.values()):
                continue  # nobody else could make them sooner
            idle_s = now - max(peer.worked_at, min(hold.issued_at for hold in holds))
            if idle_s > self._idle_patience_s(peer.model_digest):
                actions += self._stall(identity, f"has begun nothing for {idle_s:.1f} s")
        return actions

    def _idle_patience_s(self, model_digest: str) -> float:
        """How long an engine may show no sign of work before the rank stops to count on it."""
        service = self._service[model_digest]
        usual_s = service.quantile(0.95) if len(service) else 0.0
        return max(3 * self.patience.lease_s, self.patience.deadline_factor * usual_s)

    def _deadline_s(self, identity: bytes) -> float:
        """How long this producer may work on one ticket, counted from its STARTED."""
        service = self.peers[identity].service
        if not len(service):
            return self.patience.cold_start_s
        return max(self.patience.lease_s, self.patience.deadline_factor * service.quantile(0.95))

    def _stall(
        self, identity: bytes, why: str, *, overdue: Sequence[Attempt] = (), keeps_begun: bool = False
    ) -> list[Action]:
        """A producer that talks is far too slow, or hangs: it gets nothing until it says that it is free again."""
        peer = self.peers[identity]
        if peer.state is PeerState.READY:
            peer.state = PeerState.STALLED
        elif peer.state is PeerState.SUSPECT and peer.awake is PeerState.READY:
            peer.awake = PeerState.STALLED
        lost = [
            (entry, hold)
            for entry, hold in self._held(identity, tuple(peer.held.values()))
            if not (keeps_begun and hold.started_at is not None)
        ]
        actions: list[Action] = [Note(f"{peer.name} {why}; it gets no more until it is free again", warning=True)]
        # Also where there is nothing to cancel: a producer answers with READY when its engine is free.
        actions.append(Send(identity, Cancel(attempts=tuple(hold.key for _, hold in lost))))
        for entry, hold in lost:
            fault = Fault.UNKNOWN if hold.key in overdue else Fault.NOBODY
            actions += self._take_back(entry, hold, f"{peer.name} {why}", fault, quiet=True)
        return actions

    def _held(self, identity: bytes, attempts: tuple[Attempt, ...]) -> list[tuple[Entry, Hold]]:
        """Those of `attempts` that this producer really holds; each once, however often it is named."""
        found = []
        for key in dict.fromkeys(attempts):
            entry = self._table.get(key.index)
            hold = entry.held_by(identity) if entry else None
            if entry is not None and hold is not None and hold.key == key:
                found.append((entry, hold))
        return found

    def _hand_out(self, entry: Entry, identity: bytes, now: float) -> Ticket:
        ticket = self._table.issue(entry, identity, now)
        self.peers[identity].hold(ticket)
        return ticket

    def _let_go(self, entry: Entry, hold: Hold) -> None:
        """Take a live attempt out of both accounts."""
        self.peers[hold.holder].drop(entry.ticket)
        self._table.release(entry, hold)

    def _take_back(self, entry: Entry, hold: Hold, why: str, fault: Fault, *, quiet: bool = False) -> list[Action]:
        """End an attempt; the ticket is planned again, or quarantined where it has gone wrong too often.

        Args:
            entry, hold: the attempt, which is living.
            why: for people.
            fault: whose it is.
            quiet: whether somebody else says so.
        """
        self._let_go(entry, hold)
        index = entry.ticket.index
        entry.count(hold, fault)
        if entry.failures < self.patience.max_attempts:
            warning = fault is not Fault.NOBODY
            return [] if quiet else [Note(f"ticket {index} goes back to the plan: {why}", warning=warning)]
        # Another may hold it still, and may hang over it for ever.
        cancels: list[Action] = [Send(other.holder, Cancel(attempts=(other.key,))) for other in entry.holds]
        for other in tuple(entry.holds):
            self._let_go(entry, other)
        self._table.quarantine(entry)
        self.quarantined += 1
        self._quarantined_in_row[entry.model_digest] += 1
        in_row = self._quarantined_in_row[entry.model_digest]
        text = f"ticket {index} ({entry.ticket.recipe.prompt!r:.60}) failed {entry.failures} times, the last time {why}"
        if in_row >= self.patience.max_quarantined:
            return [Fail(f"{in_row} tickets in a row could not be made; {text}")]
        return [*cancels, Note(f"{text}; a stand-in takes its place", warning=True), Quarantine(entry.ticket, why)]

    def _forget(self, identity: bytes, why: str, *, polite: bool = False) -> list[Action]:
        """A producer is gone; its tickets go to others. What it was making counts as lost unless it said goodbye."""
        peer = self.peers[identity]
        actions: list[Action] = [Note(f"{peer.name} {why}; {len(peer.held)} tickets go to others", warning=not polite)]
        for entry, hold in self._held(identity, tuple(peer.held.values())):
            fault = Fault.NOBODY if polite else _lost(hold)
            actions += self._take_back(entry, hold, f"{peer.name} {why}", fault, quiet=True)
        del self.peers[identity]
        return actions

    def _name(self, identity: bytes) -> str:
        peer = self.peers.get(identity)
        return peer.name if peer else "unknown"


def _messages(tickets: Sequence[Ticket]) -> Iterator[Tickets]:
    """Tickets in as few messages as their limits allow, in their order."""
    together: list[Ticket] = []
    num_values = 0
    for ticket in tickets:
        more = ticket.recipe.num_per_image_values
        if len(together) == MAX_TICKETS_PER_MESSAGE or num_values + more > MAX_PER_IMAGE_VALUES:
            yield Tickets(tickets=tuple(together))
            together, num_values = [], 0
        together.append(ticket)
        num_values += more
    yield Tickets(tickets=tuple(together))


def _could_replace(other: Peer, peer: Peer) -> bool:
    """Whether a producer is free to make what another holds."""
    return other.state is PeerState.READY and other.model_digest == peer.model_digest


def _lost(hold: Hold) -> Fault:
    """Whose fault it is that an attempt was lost: what had not begun is nobody's."""
    return Fault.NOBODY if hold.started_at is None else Fault.UNKNOWN
