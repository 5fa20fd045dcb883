"""Who is behind the connections of a rank's socket: by which key each was let in, and which are let in no more.

ZeroMQ asks about a key once, when a connection is made. A key that is revoked later is noticed here, and one that
brings little but nonsense: what its connections still send is dropped, and they are ended.
"""

import time
from dataclasses import dataclass, field
from typing import Final

import zmq

from penstock.protocol.allow_list import OWN, AllowList
from penstock.protocol.exclusion import MOST_REFUSED, WITHIN_S, RefusedCount
from penstock.protocol.gate import USER_ID, Gate
from penstock.protocol.peer_address import Ends, ends_of, hang_up

_FAREWELL_S: Final = 1.0
"""How long a connection that is heard no more stays, so that it can be told why it ends."""
_CHOSEN: Final = "it names its connection itself (ZMQ_ROUTING_ID), by which it could pass for another: it must set none"


@dataclass(slots=True)
class _Caller:
    """A connection that has said something."""

    descriptor: int
    ends: Ends | None
    key: str
    end_at: float | None = None
    """When it is ended, or was: it is not heard any more."""
    refused: RefusedCount = field(default_factory=RefusedCount)

    @property
    def is_there(self) -> bool:
        """Whether its connection has not ended."""
        return self.ends is not None and self.ends == ends_of(self.descriptor)

    @property
    def shown(self) -> str:
        """Where it is, for people."""
        return self.ends.shown if self.ends else "somebody"


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
        self._ending: dict[bytes, _Caller] = {}
        """Those that are to be hung up on."""
        self._leaving: list[tuple[bytes, str]] = []
        """Those that are heard no more, and why; nobody has been told yet."""

    def may_speak(self, identity: zmq.Frame, frame: zmq.Frame) -> bool:
        """Whether a message is to be heard, of which this is the first frame behind its identity."""
        name, descriptor = identity.bytes, int(frame.get(zmq.SRCFD))
        key = str(frame.get(USER_ID)) if self._allowed else ""
        caller = self._callers.get(name)
        if caller is None or caller.descriptor != descriptor or caller.key != key:
            caller = self._meet(name, descriptor, key)
        return caller.end_at is None and (self._allowed is None or self._allowed.name(key) is not None)

    def _meet(self, name: bytes, descriptor: int, key: str) -> _Caller:
        """Somebody new, or another one behind a name that was somebody's.

        Its connection may have ended by now, and its descriptor be another's: if then that one is ended in its place,
        it dials again.
        """
        if len(self._callers) >= self._most:
            # Whose connection has ended and who was never answered since.
            self._callers = {other: each for other, each in self._callers.items() if each.is_there}
        caller = self._callers[name] = _Caller(descriptor, ends_of(descriptor), key)
        now = time.monotonic()
        if not name.startswith(b"\0"):
            self._gate.refusals.add("routing_id", caller.shown, _CHOSEN, now)
            self._end(name, caller, now)
        elif self._allowed is not None and (self._allowed.name(key) is None or self._gate.exclusions.left_s(key, now)):
            self._end(name, caller, now)  # since its handshake
        else:
            self._gate.heard(descriptor)
        return caller

    def _end(self, name: bytes, caller: _Caller, at: float) -> None:
        caller.end_at = at
        self._ending[name] = caller

    def blame(self, identity: bytes, now: float) -> None:
        """A message of somebody was refused. Of whoever is refused too many within some seconds nothing more is heard.

        Nor of anybody with the same key, unless it is that of the run's own producers, who have one among them.
        """
        caller = self._callers.get(identity)
        if caller is None or caller.end_at is not None or not caller.refused.one_more(now):
            return
        why = f"{MOST_REFUSED:,} of its messages were refused within {WITHIN_S:g} s"
        ended = {identity: caller}
        name = self._allowed.name(caller.key) if self._allowed else None
        if name not in (None, OWN):
            why += f"; nothing with the key of {name} is heard for {self._gate.exclusions.exclude(caller.key, now):g} s"
            ended = {other: each for other, each in self._callers.items() if each.key == caller.key}
        self._gate.refusals.add("nonsense", caller.shown, why, now)
        for other, each in ended.items():
            if each.end_at is None:
                self._end(other, each, now + _FAREWELL_S)
                self._leaving.append((other, why))

    def key_name(self, identity: bytes) -> str:
        """What the key is called by which somebody was let in; empty where the link has none."""
        caller = self._callers.get(identity)
        return (self._allowed.name(caller.key) or "") if caller and self._allowed else ""

    def forget(self, identity: bytes) -> None:
        """Its connection has ended."""
        self._callers.pop(identity, None)
        self._ending.pop(identity, None)

    def let_go(self, now: float) -> list[tuple[bytes, str]]:
        """Who is heard no more since the last call, and why; ends the connections of those before."""
        for name, caller in tuple(self._ending.items()):
            if caller.end_at is not None and caller.end_at <= now:
                # It stays known: what it had sent before may still come.
                del self._ending[name]
                if caller.ends is not None:
                    hang_up(caller.descriptor, caller.ends)
        if self._allowed is not None and self._generation != self._allowed.generation:
            self._generation = self._allowed.generation
            for name, caller in self._callers.items():
                if caller.end_at is None and self._allowed.name(caller.key) is None:
                    self._end(name, caller, now + _FAREWELL_S)
                    self._leaving.append((name, "its key was revoked"))
        leaving, self._leaving = self._leaving, []
        return leaving
