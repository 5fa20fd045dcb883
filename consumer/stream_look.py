"""A rank's stream at one moment: what has come so far, and where everything is. For metrics, views and the profile."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from penstock.protocol.fleet import FleetState, PeerLook
from penstock.protocol.rank_machine import RankMachine
from penstock.protocol.ticket_table import TicketState


@dataclass(frozen=True, slots=True)
class StreamStats:
    """What has come so far. Counts since the stream's start."""

    groups: int
    images: int
    image_bytes: int
    """Bytes that travelled for them."""
    producers: int
    """Producers connected now."""
    producers_seen: int
    """Most producers connected at a time."""
    rejected: int
    """Messages dropped."""
    expired: int
    """Attempts that ran out of their lease or their deadline."""
    hedged: int
    """Tickets that were handed to a second producer."""
    quarantined: int
    """Tickets that got a stand-in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLook:
    """Where everything is. It looks at every ticket and producer: for now and then, not for every step."""

    stats: StreamStats
    fleet: FleetState
    tickets: Counter[TicketState]
    """Tickets whose group has not been delivered, by state."""
    peers: tuple[PeerLook, ...]
    """The producers that are connected."""
    arrived_groups: int
    """Groups that are here and that nobody has taken yet."""
    arrived_bytes: int
    reserved_bytes: int
    """Bytes of all groups that are asked for, once for each live attempt, or that are here and not taken."""
    window_groups: int
    window_bytes: int
    rejects: Mapping[str, int]
    """Messages dropped, by reason."""
    refused: Mapping[str, int]
    """Connections that were not let in or were hung up on, by reason."""
    waiting: str | None
    """What whoever takes the groups waits for; None where it does not wait."""

    @classmethod
    def of(
        cls, machine: RankMachine, stats: StreamStats, refused: Mapping[str, int], now: float, *, is_waiting: bool
    ) -> "StreamLook":
        """At the time `now` of the machine's clock; whoever calls holds the stream's lock."""
        return cls(
            stats=stats,
            fleet=machine.fleet,
            tickets=machine.count_tickets(),
            peers=tuple(peer.look(now) for peer in machine.peers.values()),
            arrived_groups=machine.num_untaken,
            arrived_bytes=machine.untaken_bytes,
            reserved_bytes=machine.reserved_bytes,
            window_groups=machine.window_groups,
            window_bytes=machine.window_bytes,
            rejects=machine.rejects.by_kind,
            refused=refused,
            waiting=machine.describe_wait(now) if is_waiting else None,
        )

    @property
    def credit_groups(self) -> int:
        """Tickets that all producers together would hold."""
        return sum(peer.credit_groups for peer in self.peers)

    @property
    def held(self) -> int:
        """Tickets in producers' hands; a hedged one counts twice."""
        return sum(peer.held for peer in self.peers)
