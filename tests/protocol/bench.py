"""A producer's state machine on a test's bench: the clock and every rank's words are in the test's hand."""

from collections.abc import Sequence
from typing import TypeVar

from penstock.protocol.actions import Action, Send
from penstock.protocol.image_codec import RAW, CodedImages
from penstock.protocol.links import HeldTicket
from penstock.protocol.messages import Header, Heartbeat, Message, Tickets, Welcome
from penstock.protocol.producer_machine import ProducerMachine
from penstock.protocol.tickets import Attempt, Ticket
from tests.protocol.samples import MANIFEST, PIXELS

RANK0, RANK1 = "tcp://127.0.0.1:1", "tcp://127.0.0.1:2"
R0, R1 = RANK0.encode(), RANK1.encode()
LIFE = Header(run="run", incarnation=5)
MessageType = TypeVar("MessageType", bound=Message)


def welcome(rank: int = 0, endpoints: tuple[str, ...] = (RANK0,)) -> Welcome:
    return Welcome(
        rank=rank, world_size=len(endpoints), endpoints=endpoints, keys=(), heartbeat_ms=1000, lease_ms=10_000
    )


class Bench:
    """One producer, credit 8 groups; `now` is its clock, in seconds.

    Args:
        credit_bytes: its credit in bytes.
        ranks: how many ranks there are.
        loaded: whether its engine can work.
        welcomes: whether the ranks have welcomed it.
    """

    def __init__(
        self,
        *,
        credit_groups: int = 8,
        credit_bytes: int = 10**6,
        ranks: int = 1,
        loaded: bool = True,
        welcomes: bool = True,
    ) -> None:
        self.machine = ProducerMachine(
            name="ann", manifest=MANIFEST, credit_groups=credit_groups, credit_bytes=credit_bytes
        )
        self.now = 0.0
        self._given: dict[bytes, list[Attempt]] = {}
        self.machine.connect(RANK0)
        if loaded:
            self.machine.loaded()
        for rank in range(ranks if welcomes else 0):
            self.hear(welcome(rank, (RANK0, RANK1)[:ranks]), peer=(R0, R1)[rank])
        self.machine.free()

    def hear(self, message: Message, *, peer: bytes = R0, header: Header = LIFE) -> list[Action]:
        """A rank says something."""
        return self.machine.on_message(peer, header, message, self.now)

    def give(self, *tickets: Ticket, peer: bytes = R0) -> list[Action]:
        self._given.setdefault(peer, []).extend(ticket.key for ticket in tickets)
        return self.hear(Tickets(tickets=tickets), peer=peer)

    def take(self, max_images: int = 8) -> list[HeldTicket]:
        return list(self.machine.take(max_images)[0])

    def finish(self, held: HeldTicket) -> list[Action]:
        return self.machine.finish(held, CodedImages(RAW, (), PIXELS), 77, 0.5, self.now)

    def wait(self, seconds: float, *beating: bytes) -> list[Action]:
        """Let time pass, second by second; ranks in `beating` go on listing all that they gave."""
        actions: list[Action] = []
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + 1.0)
            for peer in beating:
                self.hear(Heartbeat(held=tuple(self._given.get(peer, ()))), peer=peer)
            actions += self.machine.tick(self.now)
        return actions

    def named(self, peer: bytes = R0) -> tuple[Attempt, ...]:
        """What the next heartbeat to this rank names."""
        (beat,) = sent(self.wait(1.0, *self.machine.links), Heartbeat, peer)
        return beat.held


def sent(actions: Sequence[Action], kind: type[MessageType], to: bytes | None = None) -> list[MessageType]:
    """Messages of one kind, to one rank or to any."""
    sends = [action for action in actions if isinstance(action, Send) and (to is None or action.peer == to)]
    return [send.message for send in sends if isinstance(send.message, kind)]


def indices(batch: Sequence[HeldTicket]) -> list[int]:
    return [held.ticket.index for held in batch]
