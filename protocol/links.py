"""The ranks as one producer sees them: where the talk with each stands, and what is on its way to it."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from penstock.protocol.actions import Buffer
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
"""Weight of the latest group in what is known of a link's pace."""


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
    state: LinkState = LinkState.HELLO
    run: str = ""
    incarnation: int = 0
    rank: int = -1
    heartbeat_s: float = 1.0
    lease_s: float = 10.0
    said_at: float = float("-inf")
    heard_at: float = float("-inf")
    sent: dict[Attempt, SentGroup] = field(default_factory=dict)
    """Groups sent and not yet acknowledged."""
    waiting: deque[FinishedGroup] = field(default_factory=deque)
    """Groups that are not sent yet, because those before them fill the link."""
    acknowledged_at: float = float("-inf")
    seconds_per_byte: float = float("inf")
    """What a byte takes from here to its acknowledgement while the link is busy; infinite until a group has come."""
    owes_ready: bool = False
    """The rank waits to hear that the engine is free: it is new, or has cancelled something."""

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
        """Whether what is on its way takes less than the time between two heartbeats, which wait behind it."""
        if not self.sent:
            return True
        return sum(group.wire_bytes for group in self.sent.values()) * self.seconds_per_byte < self.heartbeat_s

    def send_next(self, now: float) -> FinishedGroup:
        """The first that waits is on its way."""
        group = self.waiting.popleft()
        self.sent[group.key] = SentGroup(now, group.nbytes, memoryview(group.payload).nbytes)
        return group

    def acknowledge(self, attempts: Sequence[Attempt], now: float) -> None:
        """Groups have arrived, and tell how fast the link is: they had it to themselves since those before."""
        groups = [group for key in attempts if (group := self.sent.pop(key, None)) is not None]
        if not groups:
            return
        begun = max(self.acknowledged_at, min(group.at for group in groups))
        latest = (now - begun) / max(1, sum(group.wire_bytes for group in groups))
        is_first = self.seconds_per_byte == float("inf")
        self.seconds_per_byte = latest if is_first else (1 - _NEWS) * self.seconds_per_byte + _NEWS * latest
        self.acknowledged_at = now

    def forget_groups(self) -> None:
        """Nobody waits for them: the rank has gone or begun another life, on a link whose pace is not known yet."""
        self.sent.clear()
        self.waiting.clear()
        self.seconds_per_byte = float("inf")


@dataclass(frozen=True, slots=True)
class HeldTicket:
    """A ticket in a producer's hands, with the rank it belongs to and the life of that rank that asked."""

    peer: bytes
    incarnation: int
    ticket: Ticket
