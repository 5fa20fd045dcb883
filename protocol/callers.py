"""Who is behind the connections of a rank's socket: by which key each was let in, and which are let in no more.

ZeroMQ asks about a key once, when a connection is made. A key that is revoked later is noticed here: what its
connections still send is dropped, and they are ended.
"""

import time
from dataclasses import dataclass
from typing import Final

import zmq

from penstock.protocol.allow_list import AllowList
from penstock.protocol.gate import USER_ID, Gate
from penstock.protocol.peer_address import Ends, ends_of, hang_up

_FAREWELL_S: Final = 1.0
"""How long a revoked connection stays, so that it can be told why it ends."""
_CHOSEN: Final = "it names its connection itself (ZMQ_ROUTING_ID), by which it could pass for another: it must set none"


@dataclass(slots=True)
class _Caller:
    """A connection that has said something."""

    descriptor: int
    ends: Ends | None
    key: str
    end_at: float | None = None
    """When it is ended, because its key is revoked."""


class Callers:
    """The connections of one ROUTER, for the thread that reads it.

    Args:
        gate: of the same socket.
        allowed: the list; None where the link has no keys.
        max_connections: as the gate's.
    """

    def __init__(self, gate: Gate, allowed: AllowList | None, max_connections: int) -> None:
        self._gate = gate
        self._allowed = allowed
        self._most = 2 * max_connections
        self._callers: dict[bytes, _Caller] = {}
        self._generation = -1
        self._ending: set[bytes] = set()

    def may_speak(self, identity: zmq.Frame, frame: zmq.Frame) -> bool:
        """Whether a message is to be heard, of which this is the first frame behind its identity."""
        name, descriptor = identity.bytes, int(frame.get(zmq.SRCFD))
        key = str(frame.get(USER_ID)) if self._allowed else ""
        caller = self._callers.get(name)
        if caller is None or caller.descriptor != descriptor or caller.key != key:
            caller = self._meet(name, descriptor, key)
        return caller.end_at is None and (self._allowed is None or self._allowed.name(key) is not None)

    def _meet(self, name: bytes, descriptor: int, key: str) -> _Caller:
        """Somebody new, or another one behind a name that was somebody's."""
        if len(self._callers) >= self._most:
            # Whose connection has ended and who was never answered since.
            self._callers = {
                other: each for other, each in self._callers.items() if each.ends == ends_of(each.descriptor)
            }
        caller = self._callers[name] = _Caller(descriptor, ends_of(descriptor), key)
        now = time.monotonic()
        if not name.startswith(b"\0"):
            self._gate.refusals.add("routing_id", caller.ends.shown if caller.ends else "somebody", _CHOSEN, now)
            caller.end_at = now
        elif self._allowed is not None and self._allowed.name(key) is None:
            caller.end_at = now  # revoked between its handshake and its first word
        else:
            self._gate.heard(descriptor)
        if caller.end_at is not None:
            self._ending.add(name)
        return caller

    def key_name(self, identity: bytes) -> str:
        """What the key is called by which somebody was let in; empty where the link has none."""
        caller = self._callers.get(identity)
        return (self._allowed.name(caller.key) or "") if caller and self._allowed else ""

    def forget(self, identity: bytes) -> None:
        """Its connection has ended."""
        self._callers.pop(identity, None)
        self._ending.discard(identity)

    def revoked(self, now: float) -> list[bytes]:
        """Who may not speak any more since the last call; ends the connections of those before."""
        for name in [name for name in self._ending if (self._callers[name].end_at or 0.0) <= now]:
            caller = self._callers[name]
            if caller.ends is not None:
                hang_up(caller.descriptor, caller.ends)
            self.forget(name)
        if self._allowed is None or self._generation == self._allowed.generation:
            return []
        self._generation = self._allowed.generation
        found = []
        for name, caller in self._callers.items():
            if caller.end_at is None and self._allowed.name(caller.key) is None:
                caller.end_at = now + _FAREWELL_S
                self._ending.add(name)
                found.append(name)
        return found
