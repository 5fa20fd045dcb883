"""The ranks as one producer sees them: where the talk with each stands, and what is on its way to it."""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from penstock.protocol.actions import Buffer
from penstock.protocol.clock import ClockDifference
from penstock.protocol.messages import Result
from penstock.protocol.tickets import Attempt, Ticket


class LinkState(Enum):
    """Where the talk with one rank stands."""

    HELLO = auto()
    """Nobody has answered yet, or the rank has fallen silent."""
    WARMING = auto()
    """Welcomed; the model is still loading."""
    READY = auto()
    DRAINING = auto()
    """No more tickets; what has begun is finished."""
    GONE = auto()
    """The rank has said BYE; in another life it may be back."""
    REJECTED = auto()
    """Refused, or not to be dialled: for good."""


_NEWS = 0.25
"""Weight of the latest sample in what is known of a link's pace."""
_SAMPLE = 0.125
"""The shortest sample, in heartbeats."""


@dataclass(frozen=True, slots=True)
class FinishedGroup:
    """A group that is made and not acknowledged."""

    nbytes: int
    """Of its pixels, as credits count."""
    result: Result
    payload: Buffer

    @property
    def key(self) -> Attempt:
        """The attempt that asked for it."""
        return Attempt(self.result.index, self.result.attempt)


@dataclass(frozen=True, slots=True)
class SentGroup:
    """A group on its way."""

    at: float
    """When it was sent."""
    nbytes: int
    """Of its pixels, as credits count."""
    wire_bytes: int
    """Of its frame."""


@dataclass(slots=True)
class Link:
    """One rank as a producer sees it."""

    endpoint: str
    key: str = ""
    """The rank's public key; empty for the one that this producer was given, or where the link has none."""
    is_given: bool = False
    """Its address is one that this producer was started with, not only one that a rank has named."""
    is_spare: bool = False
    """Its rank is reached by another address, or is not one that this producer serves."""
    state: LinkState = LinkState.HELLO
    run: str = ""
    incarnation: int = 0
    rank: int = -1
    heartbeat_s: float = 1.0
    lease_s: float = 10.0
    said_at: float = float("-inf")
    dialled_at: float = float("-inf")
    """When a HELLO last went out, or the rank was last dialled because none did."""
    heard_at: float = float("-inf")
    sent: dict[Attempt, SentGroup] = field(default_factory=dict)
    """Groups sent and not yet acknowledged."""
    waiting: deque[FinishedGroup] = field(default_factory=deque)
    """Groups that are not sent yet, because those before them fill the link."""
    seconds_per_byte: float = float("inf")
    """What a byte takes from here to its acknowledgement while the link is busy; infinite until a group has come."""
    sample_since: float = float("-inf")
    """Since when `sample_bytes` were on their way, with the link to themselves."""
    sample_bytes: int = 0
    owes_ready: bool = False
    """The rank waits to hear that the engine is free: it is new, or has cancelled something."""
    traces: bool = False
    """The rank wants to hear of events."""
    clock: ClockDifference = field(default_factory=ClockDifference)
    """The rank's clock minus this one."""

    @property
    def is_talking(self) -> bool:
        """Whether the rank has welcomed this producer and is still there."""
        return self.state in (LinkState.WARMING, LinkState.READY, LinkState.DRAINING)

    @property
    def has_ended(self) -> bool:
        """Whether there is nothing more to say to this life of the rank."""
        return self.state in (LinkState.GONE, LinkState.REJECTED)

    @property
    def unacknowledged_bytes(self) -> int:
        """Bytes of finished groups, sent or not, that the rank has not acknowledged yet."""
        sent = sum(group.nbytes for group in self.sent.values())
        return sent + sum(group.nbytes for group in self.waiting)

    @property
    def may_send(self) -> bool:
        """Whether what is on its way takes less than a quarter of a lease, or the time between two heartbeats.

        Heartbeats wait behind it, and do not name the tickets that come meanwhile.
        """
        if not self.sent:
            return True
        seconds = sum(group.wire_bytes for group in self.sent.values()) * self.seconds_per_byte
        return seconds < max(self.heartbeat_s, self.lease_s / 4)

    def send_next(self, now: float) -> FinishedGroup:
        """The first that waits is on its way."""
        group = self.waiting.popleft()
        self.sent[group.key] = SentGroup(now, group.nbytes, memoryview(group.payload).nbytes)
        return group

    def acknowledge(self, attempts: Sequence[Attempt], now: float) -> None:
        """Groups have arrived, and tell how fast the link is.

        By time, not by message: acknowledgements that were long in coming are heard one right after the other.
        """
        groups = [group for key in attempts if (group := self.sent.pop(key, None)) is not None]
        if not groups:
            return
        if self.sample_bytes == 0:
            self.sample_since = max(self.sample_since, min(group.at for group in groups))
        self.sample_bytes += sum(group.wire_bytes for group in groups)
        took = now - self.sample_since
        if self.sent and took < _SAMPLE * self.heartbeat_s:
            return
        latest, is_first = took / max(1, self.sample_bytes), self.seconds_per_byte == float("inf")
        self.seconds_per_byte = latest if is_first else (1 - _NEWS) * self.seconds_per_byte + _NEWS * latest
        self.sample_since, self.sample_bytes = now, 0

    def forget_groups(self) -> None:
        """Nobody waits for them: the rank has gone or begun another life, on a link whose pace is not known yet."""
        self.sent.clear()
        self.waiting.clear()
        self.seconds_per_byte, self.sample_bytes = float("inf"), 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerLook:
    """A producer at one moment, as it sees itself: for people and for metrics."""

    queued: int
    """Tickets whose work has not begun."""
    running: int
    waiting: int
    """Groups that are made and wait for their link."""
    sent: int
    """Groups that are on their way and not acknowledged."""
    unacknowledged_bytes: int
    """Bytes of the pixels of both."""
    credit_groups: int
    """Tickets that it would hold for all ranks together."""
    links: Mapping[LinkState, int]
    """Ranks that it knows, by where the talk with them stands."""
    rejects: Mapping[str, int]
    """Messages that a rank refused, or that came garbled, by reason."""


def look_at(
    links: Sequence[Link], queued: int, running: int, credit_groups: int, rejects: Mapping[str, int]
) -> ProducerLook:
    """How a producer with these links is now; the other arguments are as in `ProducerLook`."""
    return ProducerLook(
        queued=queued,
        running=running,
        waiting=sum(len(link.waiting) for link in links),
        sent=sum(len(link.sent) for link in links),
        unacknowledged_bytes=sum(link.unacknowledged_bytes for link in links),
        credit_groups=credit_groups,
        links=Counter(link.state for link in links),
        rejects=rejects,
    )


@dataclass(frozen=True, slots=True)
class HeldTicket:
    """A ticket in a producer's hands, with the rank it belongs to and the life of that rank that asked."""

    peer: bytes
    incarnation: int
    ticket: Ticket
