"""What ZeroMQ tells of a socket's connections, as words: it is silent towards whoever sends and receives.

A wrong key, a client without one, a browser: all look like a peer that is not there, but for the socket's monitor. Its
events come from ZeroMQ's I/O thread in the order in which things happen. That thread waits where nobody reads them, so
the queue is unbounded and what reads it must live as long as the socket.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

import zmq

_EVENT = struct.Struct("=HI")


class Happening(Enum):
    """What a connection has come to."""

    ACCEPTED = auto()
    """Somebody has dialled; the value is the descriptor."""
    DIALLED = auto()
    """Somebody has accepted; the value is the descriptor."""
    DENIED = auto()
    """By whoever decides on keys; the value is 300 (not now), 400 (not you) or 500 (no room)."""
    GARBLED = auto()
    """The other side broke the handshake's rules; the value is a `ProtocolError` of ZeroMQ."""
    CUT = auto()
    """The handshake ended and nobody says why: the other side hung up, or took too long."""
    IN = auto()
    """The handshake is done."""
    ENDED = auto()
    """The value is the descriptor that it had."""
    NOT_ACCEPTED = auto()
    """Somebody has dialled, and the system gave no descriptor; the value is its error's number."""


_HAPPENINGS = {
    zmq.EVENT_ACCEPTED: Happening.ACCEPTED,
    zmq.EVENT_CONNECTED: Happening.DIALLED,
    zmq.EVENT_ACCEPT_FAILED: Happening.NOT_ACCEPTED,
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: Happening.DENIED,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: Happening.GARBLED,
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: Happening.CUT,
    zmq.EVENT_HANDSHAKE_SUCCEEDED: Happening.IN,
    zmq.EVENT_DISCONNECTED: Happening.ENDED,
}


@dataclass(frozen=True, slots=True)
class SocketEvent:
    """Something that happened to a connection."""

    what: Happening
    value: int

    @property
    def is_other_mechanism(self) -> bool:
        """Whether one side has keys and the other has none."""
        return self.what is Happening.GARBLED and self.value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH

    @property
    def is_other_key(self) -> bool:
        """Whether what came was not meant for the key of this side."""
        return self.what is Happening.GARBLED and self.value == zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC


class SocketMonitor:
    """The events of one socket, from now on; to be closed before it.

    Args:
        watched: the socket, before it binds or connects.
        name: that no other of its context has.
    """

    def __init__(self, watched: "zmq.Socket[bytes]", name: str) -> None:
        address = f"inproc://{name}"
        events = 0
        for event in _HAPPENINGS:
            events |= event
        watched.monitor(address, events)
        self._watched = watched
        self.socket: zmq.Socket[bytes] = watched.context.socket(zmq.PAIR)
        self.socket.setsockopt(zmq.RCVHWM, 0)
        self.socket.connect(address)

    def events(self) -> Iterator[SocketEvent]:
        """What has happened since the last call."""
        while True:
            try:
                told, _ = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            event, value = _EVENT.unpack(told)
            if (what := _HAPPENINGS.get(event)) is not None:
                yield SocketEvent(what, value)

    def close(self) -> None:
        """Forget what has not been read; for the watched socket's thread."""
        self._watched.disable_monitor()
        self.socket.close(linger=0)
