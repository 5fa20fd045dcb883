"""How a producer's messages go out: numbered in the order in which they leave, not in which they were meant."""

import time
from dataclasses import dataclass, replace

from penstock.protocol.actions import Buffer
from penstock.protocol.codec import encode
from penstock.protocol.messages import Header, Message, Result
from penstock.protocol.sockets import ProducerSockets
from penstock.protocol.watching import Status
from penstock.telemetry.recorder import Flow, Recorder


@dataclass(slots=True)
class Outgoing:
    """A message that waits for its turn. Its fences are those of the moment that it was meant for."""

    peer: bytes
    header: Header
    message: Message
    payload: Buffer | None


class Postman:
    """Numbers, encodes and sends messages. For the thread that has the sockets.

    Args:
        sockets: to the ranks.
        recorder: takes note of how long it takes to send a group.
    """

    def __init__(self, sockets: ProducerSockets, recorder: Recorder) -> None:
        self._sockets = sockets
        self._recorder = recorder
        self._seq = 0

    def send(self, out: Outgoing) -> bool:
        """Send one message; False where there is no room for it, or no connection."""
        self._seq += 1
        message, begun_ns = out.message, time.monotonic_ns()
        if isinstance(message, Status):
            message = replace(message, clock_ns=begun_ns)
        if not self._sockets.send(out.peer, encode(message, replace(out.header, seq=self._seq)), out.payload):
            return False
        if isinstance(out.message, Result):
            key = out.message.key
            self._recorder.add("send", begun_ns, time.monotonic_ns(), key.index, key.attempt, Flow.STEP)
        return True
