"""The ranks that a producer serves: how it finds, chooses, follows and drops them.

Ranks come and go: each WELCOME names those that there are, addresses that it does not name are given up when they fall
silent, and those that the producer was started with are tried again whenever nobody talks. Of very many ranks each
producer serves some, drawn by its name; when it has nothing to do it serves more. Tickets are kept here, too, since a
rank that is dropped takes its own along. Times are seconds on the caller's monotonic clock.
"""

from collections import deque

from penstock.protocol.actions import Action, Connect, Disconnect, Finished, Note, Send
from penstock.protocol.chance import draw
from penstock.protocol.clock import ClockDifference
from penstock.protocol.links import HeldTicket, Link, LinkState
from penstock.protocol.messages import Bye, Header, Welcome
from penstock.protocol.tickets import Attempt

_REDIAL_S = 3.0
"""How long a HELLO may wait for its connection before the rank is dialled anew: its name may have another address."""


class ServedRanks:
    """One producer's links to ranks, and what it holds for each.

    Args:
        name: the producer's name, by which its ranks are drawn.
        num_ranks: how many it serves at first.
    """

    def __init__(self, name: str, num_ranks: int) -> None:
        self.name = name
        self.links: dict[bytes, Link] = {}
        self._first = self._num_drawn = num_ranks
        self._drawn: frozenset[int] = frozenset()
        """The ranks that it serves; empty where it serves all."""
        self._ranks: tuple[tuple[str, str], ...] = ()
        """Address and key of every rank, as the latest WELCOME names them."""
        self._idle_since: float | None = None
        """Since when it has had nothing to do; None while it has, or has no rank."""
        self._draining: str | None = None
        """Why it takes no more tickets, and looks for no more ranks; None while it does."""
        self._given: list[str] = []
        """Addresses that this producer was started with."""
        self._named: frozenset[str] = frozenset()
        """Addresses of all ranks."""
        self._queue: list[HeldTicket] = []
        self._running: list[HeldTicket] = []

    @property
    def connected(self) -> bool:
        """Whether any rank has welcomed this producer and is still there."""
        return any(link.is_talking for link in self.links.values())

    @property
    def traced(self) -> tuple[bytes, ClockDifference] | None:
        """The rank that wants to hear of events, and how far its clock is from this one's; None where none does."""
        return next(((peer, link.clock) for peer, link in self.links.items() if link.is_talking and link.traces), None)

    def header(self, peer: bytes) -> Header:
        """The fences of a message to `peer`, without its sequence number; those of a HELLO where nobody is there."""
        link = self.links.get(peer)
        return Header() if link is None else Header(run=link.run, incarnation=link.incarnation)

    # --- finding and choosing -----------------------------------------------------------------------------------------

    def connect(self, endpoint: str) -> list[Action]:
        """Start to serve the rank at an address that this producer was given, unless it does already."""
        if endpoint not in self._given:
            self._given.append(endpoint)
        return self._dial(endpoint, "")

    def _dial(self, endpoint: str, key: str) -> list[Action]:
        """Serve the rank at `endpoint`, which is not served; `key` as in `Connect`."""
        link = self.links.get(endpoint.encode())
        if link is None:
            self.links[endpoint.encode()] = Link(endpoint, key, endpoint in self._given)
            return [Connect(endpoint, key)]
        if link.state is LinkState.GONE:
            link.state = LinkState.HELLO  # it has left, and another rank says that it is back
        if key in ("", link.key) or link.state is LinkState.REJECTED:
            return []
        self._restart(endpoint.encode())
        link.key = key
        return [Connect(endpoint, key)]

    def cannot_connect(self, endpoint: str) -> None:
        """The rank at `endpoint` cannot be dialled at all; the others are served."""
        self._end(endpoint.encode(), LinkState.REJECTED)

    def _hear_of_ranks(self, link: Link, welcome: Welcome) -> list[Action]:
        """A rank has named all that there are: dial those that are to be served, and leave it if it is not."""
        self._draw(welcome.world_size)
        link.owes_ready = self._serves(welcome.rank)
        self._named = frozenset(welcome.endpoints)
        keys = welcome.keys or ("",) * len(welcome.endpoints)
        self._ranks = tuple(zip(welcome.endpoints, keys, strict=True))
        link.key = keys[welcome.rank]
        return self._dial_drawn(link.run, link.incarnation) + self._leave_undrawn()

    def _dial_drawn(self, run: str, incarnation: int) -> list[Action]:
        """Dial the ranks of this life that are to be served and are not."""
        # By rank, not by address: one host has several names.
        served = {link.rank for link in self.links.values() if (link.run, link.incarnation) == (run, incarnation)}
        actions: list[Action] = []
        for rank in sorted(self._drawn) or range(len(self._ranks)):
            if rank not in served:
                actions += self._dial(*self._ranks[rank])
        return actions

    def _serves(self, rank: int) -> bool:
        """Whether a rank is among those that this producer's name has drawn, or is to serve all."""
        return not self._drawn or rank in self._drawn

    def _draw(self, world_size: int) -> None:
        """Draw the ranks to serve: by name, so that each gets about as many producers, and the same in every life."""
        if not 0 < self._num_drawn < world_size:
            self._drawn = frozenset()
        elif len(self._drawn) != self._num_drawn or len(self._ranks) != world_size:
            by_lot = sorted(range(world_size), key=lambda rank: draw(self.name, rank))
            self._drawn = frozenset(by_lot[: self._num_drawn])

    def _widen(self, now: float) -> list[Action]:
        """Serve one rank more for each lease that this producer has had nothing to do, at a stretch.

        In a small fleet all may have drawn others than one rank. It stands still, soon all ranks wait for it, and
        nobody has anything to do. Where trainers pause every now and then, only the longest pause counts.
        """
        link = next((link for link in self.links.values() if link.state is LinkState.READY), None)
        if not self._drawn or link is None or self._queue or self._running:
            self._idle_since = None
            return []
        if self._idle_since is None:
            self._idle_since = now
        num_drawn = self._first + int((now - self._idle_since) // link.lease_s)
        if num_drawn <= self._num_drawn:
            return []
        self._num_drawn = num_drawn
        self._draw(len(self._ranks))
        return self._dial_drawn(link.run, link.incarnation)

    def _leave_undrawn(self) -> list[Action]:
        """Leave the rank that has only told of the others, once one of those that were drawn talks."""
        talking = [(peer, link) for peer, link in self.links.items() if link.is_talking]
        if not any(self._serves(link.rank) for _, link in talking):
            return []
        actions: list[Action] = []
        for peer, link in talking:
            if not self._serves(link.rank):
                self._end(peer, LinkState.GONE)
                link.is_spare = True
                actions.append(Send(peer, Bye(reason="it serves other ranks")))
        return actions

    def _served_elsewhere(self, peer: bytes, header: Header, rank: int) -> str:
        """The address by which the rank behind `peer` is served already, or a later life of it; empty where none is.

        An earlier life of it, or a link of this life that has fallen silent, is given up.
        """
        for other, link in self.links.items():
            if other == peer or (link.run, link.rank) != (header.run, rank) or link.has_ended:
                continue
            if link.is_talking and link.incarnation >= header.incarnation:
                return link.endpoint
            self._end(other, LinkState.GONE)
            link.is_spare = True
        return ""

    # --- following and dropping ---------------------------------------------------------------------------------------

    def leave(self, reason: str) -> list[Action]:
        """Say BYE to every rank; what is held goes back."""
        ready = [peer for peer, link in self.links.items() if link.is_talking]
        for peer in self.links:
            self._end(peer, LinkState.GONE)
        return [Send(peer, Bye(reason=reason)) for peer in ready]

    def _follow(self, peer: bytes, link: Link, now: float) -> list[Action]:
        """Go back to HELLO where a rank has been silent for a lease, and dial anew where none gets out."""
        actions: list[Action] = []
        if link.is_talking and now - link.heard_at > link.lease_s:
            actions.append(Note(f"{link.endpoint} has been silent for {now - link.heard_at:.0f} s", warning=True))
            self._restart(peer)
        if link.state is LinkState.HELLO:
            actions += self._redial(link, now)
        return actions

    def _tidy(self) -> list[Action]:
        """Hang up where nobody is any more; when all have fallen silent, go back to the addresses that are known."""
        idle = [peer for peer, link in self.links.items() if not link.is_talking and self._is_stale(link)]
        actions: list[Action] = []
        for peer in idle:
            actions.append(Disconnect(self.links.pop(peer).endpoint))
        if self._draining is None and self._is_alone():
            left = [link.endpoint for link in self.links.values() if link.state is LinkState.GONE]
            lost = [endpoint for endpoint in self._given if endpoint.encode() not in self.links]
            actions += [action for endpoint in (*left, *lost) for action in self._dial(endpoint, "")]
        return actions

    def _is_alone(self) -> bool:
        """Whether nobody talks, and the run was not over: a rank has fallen silent that had not said goodbye.

        One that crashed took the others along, and those have said it: all will be back.
        """
        states = {link.state for link in self.links.values()}
        return not states or (LinkState.HELLO in states and not self.connected)

    def _is_stale(self, link: Link) -> bool:
        """Whether no rank is to be expected at a link's address."""
        return link.is_spare or not (link.is_given or link.endpoint in self._named)

    def _redial(self, link: Link, now: float) -> list[Action]:
        """Dial anew where no HELLO gets out for long."""
        is_reached = link.said_at > float("-inf")
        if is_reached or link.dialled_at == float("-inf"):
            link.dialled_at = now
        if now - link.dialled_at < _REDIAL_S:
            return []
        link.dialled_at = now
        return [Connect(link.endpoint, link.key)]

    def not_sent(self, peer: bytes) -> None:
        """A HELLO did not go out, because the connection is not there yet: say it at the next tick."""
        if peer in self.links:
            self.links[peer].said_at = float("-inf")

    def _held(self, peer: bytes) -> list[HeldTicket]:
        """This rank's tickets, begun or not, that are not finished."""
        return [held for held in (*self._queue, *self._running) if held.peer == peer]

    def _keys(self, peer: bytes) -> tuple[Attempt, ...]:
        """The attempts of this rank's tickets, those of groups that it has not acknowledged among them."""
        link = self.links[peer]
        unfinished = {held.ticket.key for held in self._held(peer)}
        return tuple(sorted(unfinished | link.sent.keys() | {group.key for group in link.waiting}))

    def _drop(self, peer: bytes, unwanted: set[Attempt]) -> None:
        """Forget these tickets of a rank; what is being made of them will not be sent."""
        self._queue = [held for held in self._queue if held.peer != peer or held.ticket.key not in unwanted]
        self._running = [held for held in self._running if held.peer != peer or held.ticket.key not in unwanted]
        link = self.links[peer]
        link.waiting = deque(group for group in link.waiting if group.key not in unwanted)

    def _restart(self, peer: bytes) -> None:
        """Back to HELLO: nothing that the rank asked for before counts any more."""
        self._void(peer)
        self.links[peer].state = LinkState.HELLO

    def _end(self, peer: bytes, state: LinkState) -> None:
        self._void(peer)
        self.links[peer].state = state

    def _void(self, peer: bytes) -> None:
        self._queue = [held for held in self._queue if held.peer != peer]
        self._running = [held for held in self._running if held.peer != peer]
        self.links[peer].forget_groups()
        self.links[peer].owes_ready = False

    def _finished(self, reason: str, rejected: bool) -> list[Action]:
        """The run is over once nobody talks."""
        # A rank that does not answer either has crashed or has never come; the run is over without it.
        if any(link.is_talking for link in self.links.values()):
            return []
        return [Finished(reason, rejected)]
