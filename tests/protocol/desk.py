"""A rank's state machine on a test's desk: the clock and every producer's words are in the test's hand."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

from penstock.protocol.actions import Action, Buffer, Deliver, Fail, Note, Quarantine, Send
from penstock.protocol.admission import Expectation
from penstock.protocol.dispatcher import Patience
from penstock.protocol.inspection import inspect
from penstock.protocol.messages import Header, Heartbeat, Hello, Message, Nack, Ready, Result, Started, Tickets
from penstock.protocol.rank_machine import RankMachine
from penstock.protocol.tickets import Attempt, Manifest
from tests.protocol.samples import CRC32, MANIFEST, PIXELS, a_ticket

ANN, BOB, CAT = b"ann", b"bob", b"cat"
ENDPOINTS = ("tcp://127.0.0.1:1", "tcp://127.0.0.1:2")
PATIENCE = Patience(
    heartbeat_s=1.0,
    lease_s=10.0,
    deadline_factor=4.0,
    cold_start_s=300.0,
    hedge_factor=2.0,
    hedge_after_groups=8,
    max_attempts=3,
    max_quarantined=3,
    max_bad_results=3,
)
MessageType = TypeVar("MessageType", bound=Message)


class Desk:
    """One rank; `now` is its clock, in seconds."""

    def __init__(self, *, patience: Patience = PATIENCE, expects: Expectation | None = None, **changes: Any) -> None:
        window: dict[str, Any] = {"window_groups": 10**6, "window_bytes": 10**9}
        self.machine = RankMachine(
            run_id="run",
            incarnation=5,
            rank=0,
            endpoints=ENDPOINTS,
            expects=expects or Expectation(model_digest="d1"),
            patience=patience,
            **window | changes,
        )
        self.now = 0.0
        self._seq = 0

    def say(
        self, who: bytes, message: Message, payload: Buffer | None = None, header: Header | None = None
    ) -> list[Action]:
        """The producer behind `who` says something; its messages are numbered unless a header is given."""
        if header is None:
            self._seq += 1
            life = Header() if isinstance(message, Hello) else Header(run="run", incarnation=5)
            header = replace(life, seq=self._seq)
        return hear(self.machine, who, header, message, payload, self.now)

    def hello(self, who: bytes, manifest: Manifest = MANIFEST) -> list[Action]:
        return self.say(who, Hello(producer=who.decode(), manifest=manifest))

    def ready(self, who: bytes, *, groups: int = 8, nbytes: int = 10**6) -> list[Action]:
        return self.say(who, Ready(credit_groups=groups, credit_bytes=nbytes))

    def join(self, who: bytes, *, groups: int = 8, nbytes: int = 10**6) -> list[Action]:
        return self.hello(who) + self.ready(who, groups=groups, nbytes=nbytes)

    def plan(self, *indices: int) -> list[Action]:
        """Plan the tickets at these indices and hand out what can be."""
        for index in indices:
            self.machine.plan(a_ticket(index))
        return self.machine.issue(self.now)

    def held(self, who: bytes, *indices: int) -> tuple[Attempt, ...]:
        """The attempts that `who` holds; all of them, or those at these indices."""
        held = self.machine.peers[who].held if who in self.machine.peers else {}
        return tuple(key for index, key in held.items() if not indices or index in indices)

    def start(self, who: bytes, *indices: int) -> list[Action]:
        return self.say(who, Started(attempts=self.held(who, *indices)))

    def make(self, who: bytes, index: int, *, attempt: int | None = None, **changes: Any) -> list[Action]:
        """A result for the ticket at `index`: a good one but for `changes`."""
        payload = changes.pop("payload", PIXELS)
        if attempt is None:
            (key,) = self.held(who, index)
            attempt = key.attempt
        result = Result(index=index, attempt=attempt, shape=(2, 4, 5, 3), crc32=CRC32, seconds=0.5)
        return self.say(who, replace(result, **changes), payload)

    def refuse(self, who: bytes, index: int, reason: str = "cannot", *, retryable: bool = False) -> list[Action]:
        """`who` gives the ticket at `index` back: it cannot make it, or (`retryable`) has no room for it."""
        (key,) = self.held(who, index)
        return self.say(who, Nack(index=index, attempt=key.attempt, reason=reason, retryable=retryable))

    def wait(self, seconds: float, *beating: bytes) -> list[Action]:
        """Let time pass, second by second; producers in `beating` go on naming all that they hold."""
        actions: list[Action] = []
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + 1.0)
            for who in beating:
                actions += self.say(who, Heartbeat(held=self.held(who)))
            actions += self.machine.tick(self.now)
        return actions

    def work(self, who: bytes, *indices: int, seconds: float) -> list[Action]:
        """`who` begins the tickets at these indices one after another, and takes so long for each."""
        actions: list[Action] = []
        for index in indices:
            actions += self.start(who, index)
            actions += self.wait(seconds, *self.machine.peers)
            actions += self.make(who, index)
            self.machine.take(index)
        return actions


def hear(
    machine: RankMachine, who: bytes, header: Header, message: Message, payload: Buffer | None, now: float
) -> list[Action]:
    """What the stream does with a message: ask what is wanted, inspect it, tell the machine the outcome."""
    wanted = machine.wanted(who, header, message) if isinstance(message, Result) else None
    outcome = inspect(*wanted, message, payload) if wanted and isinstance(message, Result) else None
    return machine.on_message(who, header, message, outcome, now)


def sent(actions: Sequence[Action], kind: type[MessageType], to: bytes | None = None) -> list[MessageType]:
    """Messages of one kind, to one producer or to any."""
    sends = [action for action in actions if isinstance(action, Send) and (to is None or action.peer == to)]
    return [send.message for send in sends if isinstance(send.message, kind)]


def given(actions: Sequence[Action], to: bytes | None = None) -> list[tuple[int, int]]:
    """(index, attempt) of the tickets handed out."""
    return [(ticket.index, ticket.attempt) for message in sent(actions, Tickets, to) for ticket in message.tickets]


def delivered(actions: Sequence[Action]) -> list[int]:
    """Indices of the groups delivered."""
    return [action.ticket.index for action in actions if isinstance(action, Deliver)]


def quarantined(actions: Sequence[Action]) -> list[Quarantine]:
    return [action for action in actions if isinstance(action, Quarantine)]


def failures(actions: Sequence[Action]) -> list[str]:
    return [action.text for action in actions if isinstance(action, Fail)]


def notes(actions: Sequence[Action], *, warning: bool | None = None) -> list[str]:
    """What an operator reads: all of it, or only what is (or is not) a warning."""
    texts = [action for action in actions if isinstance(action, Note)]
    return [note.text for note in texts if warning is None or note.warning is warning]
