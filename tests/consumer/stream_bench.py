"""A rank's stream on the loopback, and producers in the test's hand: nothing is sent that the test does not say."""

import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, TypeVar

from penstock.consumer.config import StreamConfig
from penstock.consumer.stream import GroupStream
from penstock.protocol.admission import Expectation
from penstock.protocol.codec import decode, encode
from penstock.protocol.dispatcher import Patience
from penstock.protocol.keys import ProducerKey, TrainerKeys
from penstock.protocol.messages import Ack, Header, Hello, Message, Nack, Ready, Result, Tickets, Welcome
from penstock.protocol.rank_machine import RankMachine
from penstock.protocol.sockets import ProducerSockets, RankSocket
from penstock.protocol.tickets import Kind, Manifest, Ticket
from tests.protocol.samples import MANIFEST, RECIPE

WAIT_S = 20.0
MessageType = TypeVar("MessageType", bound=Message)


def tickets() -> Iterator[Ticket]:
    return (Ticket(index=index, rank=0, recipe=RECIPE) for index in range(10**6))


def stand_in_for(ticket: Ticket) -> Ticket:
    return replace(ticket, stand_in=ticket.stand_in + 1, recipe=replace(RECIPE, prompt="a dog"))


def colour_of(ticket: Ticket) -> int:
    return 1 + (ticket.index + 100 * ticket.stand_in) % 255


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class HandProducer:
    """A producer that says what the test says."""

    def __init__(self, endpoint: str, name: str, key: ProducerKey | None = None) -> None:
        self.peer = endpoint.encode()
        self.name = name
        self.sockets = ProducerSockets(key)
        self.sockets.connect(endpoint)
        self.header = Header()
        self.tickets: list[Ticket] = []
        self._seq = 0

    def say(self, message: Message, payload: bytes | None = None) -> None:
        self._seq += 1
        self.say_bytes(encode(message, replace(self.header, seq=self._seq)), payload)

    def say_bytes(self, frame: bytes, payload: bytes | None = None) -> None:
        until(lambda: self.sockets.send(self.peer, frame, payload))

    def hear(self, kind: type[MessageType]) -> MessageType:
        """Read until a message of this kind comes; tickets on the way are kept."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            for _, frames in self.sockets.recv(timeout_ms=100):
                header, message = decode(frames[0])
                self.header = Header(run=header.run, incarnation=header.incarnation)
                if isinstance(message, Tickets):
                    self.tickets += message.tickets
                if isinstance(message, kind):
                    return message
        raise AssertionError(f"no {kind.__name__} came")

    def hello(self, manifest: Manifest = MANIFEST) -> None:
        self.say(Hello(producer=self.name, manifest=manifest))

    def ready(self, groups: int = 100) -> None:
        self.say(Ready(credit_groups=groups, credit_bytes=10**9))

    def next_ticket(self) -> Ticket:
        if not self.tickets:
            self.hear(Tickets)
        return self.tickets.pop(0)

    def make(self, ticket: Ticket | None = None) -> None:
        """Make this ticket, or the oldest, and wait until it is acknowledged."""
        ticket = ticket or self.next_ticket()
        payload = bytes([colour_of(ticket)]) * RECIPE.nbytes
        result = Result(
            index=ticket.index,
            attempt=ticket.attempt,
            shape=RECIPE.shape,
            crc32=zlib.crc32(payload),
            seconds=0.1,
        )
        self.say(result, payload)
        self.hear(Ack)

    def refuse(self, ticket: Ticket, reason: str) -> None:
        self.say(Nack(index=ticket.index, attempt=ticket.attempt, reason=reason, retryable=False))


class StreamBench:
    """Streams and producers of one test; all are closed with it."""

    def __init__(self) -> None:
        self.streams: list[GroupStream] = []
        self.producers: list[HandProducer] = []

    def stream(
        self,
        *,
        window: int = 8,
        window_bytes: int = 1 << 30,
        order: Any = "arrival",
        expects: Expectation | None = None,
        patience: Patience | None = None,
        config: dict[str, Any] | None = None,
        watch: Callable[[Kind], str | None] = lambda kind: None,
        real: Expectation | None = None,
        keys: TrainerKeys | None = None,
    ) -> GroupStream:
        """A stream that has not started."""
        socket = RankSocket("tcp://127.0.0.1:0", keys=keys)
        machine = RankMachine(
            run_id="run",
            incarnation=5,
            rank=0,
            endpoints=(socket.endpoint,),
            expects=expects or Expectation(model_digest="d1"),
            real=real,
            order=order,
            window_groups=window,
            window_bytes=window_bytes,
            patience=patience or Patience(max_attempts=3, max_quarantined=3),
            key_name=socket.key_name,
        )
        settings = {"producer_timeout_s": WAIT_S} | (config or {})
        self.streams.append(GroupStream(socket, machine, StreamConfig(**settings), watch))
        return self.streams[-1]

    def start(self, *, ask: bool = True, **changes: Any) -> GroupStream:
        """A stream that answers producers, and asks for tickets without end."""
        stream = self.stream(**changes)
        stream.start()
        if ask:
            stream.ask(tickets(), stand_in_for)
        return stream

    def dial(self, stream: GroupStream, name: str = "ann", key: ProducerKey | None = None) -> HandProducer:
        """A producer that has said nothing yet."""
        self.producers.append(HandProducer(stream._socket.endpoint, name, key))
        return self.producers[-1]

    def join(
        self, stream: GroupStream, name: str = "ann", *, groups: int = 100, key: ProducerKey | None = None
    ) -> HandProducer:
        """A producer that is welcome and ready."""
        producer = self.dial(stream, name, key)
        producer.hello()
        producer.hear(Welcome)
        producer.ready(groups)
        return producer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in self.streams:
            stream.close("the test is over")
        for producer in self.producers:
            producer.sockets.close()
