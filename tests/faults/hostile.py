"""A producer that says what it is told to, in the right form or not.

It sits in the test's own process: a bare DEALER, and the codec only where its messages are to be understood.
"""

import time
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
import zmq

from penstock.protocol.codec import decode, encode
from penstock.protocol.messages import Header, Heartbeat, Hello, Message, Nack, Ready, Result, Started, Tickets, Welcome
from penstock.protocol.tickets import Ticket
from tests.faults.programs import WAIT_S
from tests.faults.workload import light_manifest, pixels

M = TypeVar("M", bound=Message)
_HEARTBEAT_S = 0.1
_POLL_MS = 20


class Hostile:
    """One connection to a rank.

    Args:
        endpoint: the rank's.
        name: the producer's name, by which its rejects are counted.
    """

    def __init__(self, endpoint: str, name: str = "mallory") -> None:
        self.name = name
        self.header = Header()
        """The fences of the next message."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(endpoint)
        self._unread: deque[Message] = deque()
        self._held: dict[int, Ticket] = {}
        self._named_at = 0.0
        self.names_what_it_holds = True
        """Whether its heartbeats do."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.close(linger=0)
        self._context.term()

    # --- talking ------------------------------------------------------------------------------------------------------

    def send_frames(self, *frames: bytes) -> None:
        """Send bytes as they are, as one message."""
        self._socket.send_multipart(list(frames))

    def say(self, message: Message, *payload: bytes, header: Header | None = None) -> bytes:
        """Send a message that the codec knows, with the next sequence number; returns its header frame."""
        frame = encode(message, header or self.header)
        self.send_frames(frame, *payload)
        if header is None:
            self.header = replace(self.header, seq=self.header.seq + 1)
        return frame

    def join(self, credit_groups: int = 4) -> None:
        """HELLO, WELCOME, READY."""
        self.say(Hello(producer=self.name, manifest=light_manifest(16)))
        self.hear(Welcome)
        self.say(Ready(credit_groups=credit_groups, credit_bytes=1 << 30))

    def tickets(self, num_tickets: int = 1) -> list[Ticket]:
        """Wait until it holds so many tickets, and begin them."""
        while len(self._held) < num_tickets:
            self._held |= {ticket.index: ticket for ticket in self.hear(Tickets).tickets}
        begun = list(self._held.values())[:num_tickets]
        self.say(Started(attempts=tuple(ticket.key for ticket in begun)))
        return begun

    def result(self, ticket: Ticket) -> tuple[Result, bytes]:
        """The right answer to a ticket, for the caller to spoil."""
        payload = np.ascontiguousarray(pixels(ticket.recipe)).tobytes()
        shape, crc32 = ticket.recipe.shape, zlib.crc32(payload)
        return Result(index=ticket.index, attempt=ticket.attempt, shape=shape, crc32=crc32, seconds=0.01), payload

    def answer(self, ticket: Ticket) -> None:
        """Send the right answer."""
        self.say(*self.result(ticket))

    def wait(self, until: Callable[[], bool]) -> None:
        """Listen and send heartbeats until this is true."""
        deadline = time.monotonic() + WAIT_S
        while not until():
            assert time.monotonic() < deadline, f"{WAIT_S:.0f} s were not enough"
            self._listen()

    # --- listening ----------------------------------------------------------------------------------------------------

    def hear(self, kind: type[M], within_s: float = WAIT_S) -> M:
        """The next message of a kind; others stay for later. Heartbeats are sent while it waits."""
        deadline = time.monotonic() + within_s
        while True:
            for message in self._unread:
                if isinstance(message, kind):
                    self._unread.remove(message)
                    return message
            assert time.monotonic() < deadline, f"no {kind.kind} in {within_s:.0f} s"
            self._listen()

    def refusal(self, word: str) -> Nack:
        """The next NACK that gives this reason."""
        while True:
            nack = self.hear(Nack)
            if nack.reason.split(":")[0] == word:
                return nack

    def _listen(self) -> None:
        if self.header.run and time.monotonic() - self._named_at > _HEARTBEAT_S:
            self._named_at = time.monotonic()
            held = self._held.values() if self.names_what_it_holds else ()
            self.say(Heartbeat(held=tuple(ticket.key for ticket in held)))
        if not self._socket.poll(_POLL_MS):
            return
        header, message = decode(self._socket.recv_multipart()[0])
        if isinstance(message, Welcome):
            self.header = replace(self.header, run=header.run, incarnation=header.incarnation)
        if not isinstance(message, Heartbeat):
            self._unread.append(message)
