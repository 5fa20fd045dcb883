"""One connection to a rank that says what it is told to, in the right form or not; with a key where it is given one."""

import time
from collections import Counter, deque
from dataclasses import replace
from types import TracebackType
from typing import Self, TypeVar

import zmq

from penstock.producer.config import ProduceConfig
from penstock.producer.paced_engine import PacedEngine
from penstock.protocol.codec import decode, encode
from penstock.protocol.keys import ProducerKey
from penstock.protocol.messages import Header, Heartbeat, Hello, Message, Nack, Ready, Reject, Tickets, Welcome
from penstock.protocol.tickets import Manifest, Ticket

M = TypeVar("M", bound=Message)
PATIENCE_S = 5.0
"""How long an answer may take; a rank that does not answer at all is not the one that is wanted."""
_HEARTBEAT_S = 0.5


def paced_manifest(codec: str = "raw") -> Manifest:
    """What an honest paced producer says of itself."""
    return replace(PacedEngine(ProduceConfig(backend="paced")).manifest, codec=codec)


class Insider:
    """A DEALER of its own context.

    Args:
        endpoint: the rank's.
        key: the producer's; None for a plain link.
        name: that it gives itself.
    """

    def __init__(self, endpoint: str, key: ProducerKey | None, name: str) -> None:
        self.name = name
        self.header = Header()
        """The fences of the next message."""
        self.refused: Counter[str] = Counter()
        """NACKs and REJECTs that have come, by their first word."""
        self._unread: deque[Message] = deque()
        self._held: dict[int, Ticket] = {}
        self._named_at = 0.0
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        if key is not None:
            self.socket.setsockopt(zmq.CURVE_SERVERKEY, key.trainer.encode())
            self.socket.setsockopt(zmq.CURVE_PUBLICKEY, key.pair.public.encode())
            self.socket.setsockopt(zmq.CURVE_SECRETKEY, key.pair.secret.encode())
        self.socket.connect(endpoint)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.socket.close(linger=0)
        self._context.term()

    # --- talking ------------------------------------------------------------------------------------------------------

    def send(self, *frames: bytes) -> bool:
        """Send bytes as they are, as one message; False where the queue is full."""
        try:
            self.socket.send_multipart(list(frames), zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def say(self, message: Message, *payload: bytes, header: Header | None = None) -> list[bytes]:
        """Send a message that the codec knows, with the next sequence number; returns its frames."""
        frames = [encode(message, header or self.header), *payload]
        self.send(*frames)
        if header is None:
            self.header = replace(self.header, seq=self.header.seq + 1)
        return frames

    def join(self, manifest: Manifest, credit_groups: int) -> bool:
        """HELLO, WELCOME, READY; False where it is not welcome, or nobody answers."""
        self.say(Hello(producer=self.name, manifest=manifest))
        if self.hear(Welcome) is None:
            return False
        self.say(Ready(credit_groups=credit_groups, credit_bytes=1 << 30))
        return True

    def ticket(self) -> Ticket | None:
        """A ticket that it holds and has not answered; None where none comes."""
        if not self._held and (given := self.hear(Tickets)) is not None:
            self._held |= {ticket.index: ticket for ticket in given.tickets}
        return self._held.pop(min(self._held)) if self._held else None

    # --- listening ----------------------------------------------------------------------------------------------------

    def hear(self, kind: type[M], within_s: float = PATIENCE_S) -> M | None:
        """The next message of a kind; others stay for later. None where it does not come, or a REJECT comes first."""
        deadline = time.monotonic() + within_s
        while True:
            for message in self._unread:
                if isinstance(message, kind):
                    self._unread.remove(message)
                    return message
            if self.is_rejected or time.monotonic() > deadline:
                return None
            self.listen(20)

    @property
    def is_rejected(self) -> bool:
        """Whether the rank wants nothing more of it."""
        return self.refused["REJECT"] > 0

    def listen(self, timeout_ms: int) -> None:
        """Take one message, if it comes in time, and say which tickets are held."""
        now = time.monotonic()
        if self.header.run and now - self._named_at > _HEARTBEAT_S:
            self._named_at = now
            self.say(Heartbeat(held=tuple(ticket.key for ticket in self._held.values())))
        if not self.socket.poll(timeout_ms):
            return
        header, message = decode(self.socket.recv_multipart()[0])
        match message:
            case Welcome():
                self.header = replace(self.header, run=header.run, incarnation=header.incarnation)
            case Nack():
                self.refused[message.reason.partition(":")[0]] += 1
            case Reject():
                self.refused["REJECT"] += 1
            case Heartbeat():
                return
        self._unread.append(message)
        if len(self._unread) > 1000:
            self._unread.popleft()
