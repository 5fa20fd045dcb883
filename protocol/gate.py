"""Who gets through to a rank's socket: a thread that answers for the keys, keeps places free, and says who was refused.

ZeroMQ asks for every key by a request of its own (ZAP, ZeroMQ RFC 27). pyzmq's authenticator answers them, too, but
tells nobody whom it denied, and where its thread ends it lets everybody in; so the socket is told to refuse whoever
nobody answers for, and the end of this thread is an error of the rank.

Strangers cannot be kept from dialling. A connection has two seconds to finish its handshake, and where
there are more connections than there is room, the oldest one that has never said anything to the rank is ended. Those
that are at work cannot be pushed out so, and a newcomer needs some milliseconds to have said its HELLO.
"""

import os
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass
from math import ceil
from typing import Final

import zmq
from zmq.utils import z85

from penstock.protocol.allow_list import AllowList, short
from penstock.protocol.errors import KeyFileError
from penstock.protocol.exclusion import Exclusions
from penstock.protocol.keys import TrainerKeys
from penstock.protocol.limits import MAX_HEADER_BYTES
from penstock.protocol.peer_address import Ends, ends_of, hang_up, num_received_bytes, shown_address
from penstock.protocol.refusals import Refusals
from penstock.protocol.socket_monitor import Happening, SocketEvent, SocketMonitor
from penstock.protocol.socket_options import HANDSHAKE_MS

USER_ID: Final = "User-Id"
"""What a message's frames say of the key that its connection was let in with: the key itself."""
_DOMAIN: Final = "penstock"
"""Of ZeroMQ's requests for keys: whatever it is, it must be some."""
_ADDRESS: Final = "inproc://zeromq.zap.01"
_VERSION: Final = b"1.0"
_LET_IN, _DENIED, _EXCLUDED = b"200", b"400", b"500"
"""Of ZAP's statuses 300 would leave a client without an answer; of 400 and 500 it learns."""
_LOOK_S: Final = 1.0
"""How often the list is looked at."""
_GLANCE_S: Final = 0.05
"""How often connections that have said nothing yet are looked at, while there are any."""
_MAX_UNHEARD_BYTES: Final = 2 * MAX_HEADER_BYTES
"""What a connection may send before the rank has heard anything of it: ZeroMQ would take a group of a stranger."""
_UNHEARD_BYTES_PER_S: Final = 1 << 16
"""And what more for every second: before a run has begun, producers say HELLO again and again."""
_MAX_ANSWERED: Final = 4096
"""Addresses whose answers are remembered."""
_JOIN_S: Final = 2.0


@dataclass(slots=True)
class _Connection:
    """One that is open."""

    ends: Ends | None
    since: float
    is_heard: bool = False
    is_ended: bool = False
    """By the gate; ZeroMQ has not noticed yet."""

    @property
    def who(self) -> str:
        return self.ends.shown if self.ends else "somebody who has gone again"


class Gate:
    """Guards a ROUTER that is not bound yet, from `open` to `close`.

    Args:
        router: the rank's socket.
        keys: the trainer's; without them everybody gets in who speaks ZeroMQ.
        max_connections: at a time.
        is_ipc: whether it will be bound to a path.
    """

    def __init__(
        self, router: "zmq.Socket[bytes]", keys: TrainerKeys | None, max_connections: int, *, is_ipc: bool = False
    ) -> None:
        self.refusals = Refusals()
        self.exclusions = Exclusions()
        self.error: BaseException | None = None
        """What ended the thread."""
        self._router = router
        self._keys = keys
        self._is_ipc = is_ipc
        self._max_connections = max_connections
        self._heard: deque[int] = deque()
        self._open: dict[int, _Connection] = {}
        self._answered: Counter[str] = Counter()
        """Connections from each address that were let in or denied and have not been heard or ended yet."""
        self._failed: SocketEvent | None = None
        """Why the connection ends whose end is told next."""
        self._is_glancing = False
        self._look_at = time.monotonic() + _LOOK_S
        self._is_closing = threading.Event()
        context = router.context
        self._bell: zmq.Socket[bytes] = context.socket(zmq.PAIR)
        self._bell.bind("inproc://gate")
        self._ring: zmq.Socket[bytes] = context.socket(zmq.PAIR)
        self._ring.connect("inproc://gate")
        self._asked: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        self._monitor = SocketMonitor(router, "gate-monitor")
        self._thread = threading.Thread(target=self._run, name="penstock-gate", daemon=True)
        self._asked.bind(_ADDRESS)
        router.setsockopt_string(zmq.ZAP_DOMAIN, _DOMAIN)
        # Without it, whoever nobody answers for gets in.
        router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        if keys is not None:
            router.setsockopt(zmq.CURVE_SERVER, 1)
            router.setsockopt(zmq.CURVE_PUBLICKEY, keys.pair.public.encode())
            router.setsockopt(zmq.CURVE_SECRETKEY, keys.pair.secret.encode())

    def open(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def heard(self, descriptor: int) -> None:
        """The rank has heard something from this connection, which keeps its place from now on. For any thread."""
        self._heard.append(descriptor)

    def close(self) -> None:
        """End the thread: nobody gets in any more. For the socket's thread, before it closes the socket.

        Does nothing the second time.
        """
        if self._is_closing.is_set():
            return
        self._is_closing.set()
        if self._thread.ident is not None:
            self._ring.send(b"", zmq.NOBLOCK)
            self._thread.join(_JOIN_S)
        self._monitor.close()
        for each in (self._asked, self._ring, self._bell):
            each.close(linger=0)

    def _run(self) -> None:
        poller = zmq.Poller()
        for each in (self._bell, self._asked, self._monitor.socket):
            poller.register(each, zmq.POLLIN)
        try:
            while not self._is_closing.is_set():
                poller.poll(max(0, ceil((self._wake_at() - time.monotonic()) * 1000)))
                now = time.monotonic()
                self._answer_all(now)
                self._watch(now)
                if now >= self._look_at:
                    self._look_at = now + _LOOK_S
                    self._look(now)
        except BaseException as error:  # noqa: BLE001 - a thread's edge: whoever waits for the socket raises it
            self.error = error

    def _wake_at(self) -> float:
        if self._is_glancing:
            return min(self._look_at, time.monotonic() + _GLANCE_S)
        return self._look_at

    # --- keys ---------------------------------------------------------------------------------------------------------

    def _answer_all(self, now: float) -> None:
        while True:
            try:
                asker, _, *asked = self._asked.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if len(asked) < 6:
                continue
            version, number, _, address, _, mechanism, *credentials = asked
            who = shown_address(address.decode("utf-8", "replace"), is_ipc=self._is_ipc)
            if len(self._answered) >= _MAX_ANSWERED:
                self._answered.clear()
            self._answered[who] += 1
            status, user = _DENIED, b""
            if self._keys is None:
                status = _LET_IN if (version, mechanism) == (_VERSION, b"NULL") else _DENIED
            elif (version, mechanism) == (_VERSION, b"CURVE") and len(credentials) == 1:
                user = z85.encode(credentials[0])
                status = self._status(self._keys.allowed, user.decode(), who, now)
            self._asked.send_multipart([asker, b"", _VERSION, number, status, b"", user, b""])

    def _status(self, allowed: AllowList, key: str, who: str, now: float) -> bytes:
        """Whether a key is let in; where it is not known, after a look whether it has just been added."""
        if allowed.name(key) is None:
            self._look(now)
        if (name := allowed.name(key)) is None:
            why = f"its key {short(key)} is not in {allowed.path}; `penstock keys add` makes one that is"
            self.refusals.add("unknown_key", who, why, now)
            return _DENIED
        if left_s := self.exclusions.left_s(key, now):
            why = f"nothing with the key of {name} is heard for {ceil(left_s)} s more, after too much nonsense"
            self.refusals.add("excluded", who, why, now)
            return _EXCLUDED
        return _LET_IN

    def _look(self, now: float) -> None:
        """Look whether the list has changed; where it cannot be read, the last one stays."""
        if self._keys is None:
            return
        try:
            self._keys.allowed.refresh(now)
        except KeyFileError as error:
            self.refusals.warn(str(self._keys.allowed.path), f"{error}; the list stays as it was", now)

    # --- connections --------------------------------------------------------------------------------------------------

    def _watch(self, now: float) -> None:
        """Keep the book of connections, and room for more."""
        heard = [self._heard.popleft() for _ in range(len(self._heard))]
        for event in self._monitor.events():
            self._take(event, now)
        for descriptor in heard:
            # What ZeroMQ told before it gave the message out has been read by now.
            if (connection := self._open.get(descriptor)) is not None and not connection.is_heard:
                connection.is_heard = True
                self._forget_answer(connection.who)
        self._make_room(now)
        self._stop_floods(now)

    def _take(self, event: SocketEvent, now: float) -> None:
        match event.what:
            case Happening.ACCEPTED:
                self._open[event.value] = _Connection(ends_of(event.value), now)
            case Happening.ENDED:
                if (connection := self._open.pop(event.value, None)) is not None and not connection.is_heard:
                    was_answered = self._forget_answer(connection.who)
                    if not connection.is_ended:
                        self._explain(connection, now, was_answered=was_answered)
            case Happening.NOT_ACCEPTED:
                why = f"the system gives no descriptor for it: {os.strerror(event.value)}; see `ulimit -n`"
                self.refusals.add("descriptors", "somebody", why, now)
        self._failed = event if event.what in (Happening.CUT, Happening.GARBLED) else None

    def _explain(self, connection: _Connection, now: float, *, was_answered: bool) -> None:
        """Say why a connection has ended that was none, unless it has been said when its key was asked for."""
        failed, lasted_s = self._failed, now - connection.since
        if failed is None:
            if was_answered:
                return
            self.refusals.add("no_zeromq", connection.who, "it speaks no ZeroMQ (a browser, a scanner?)", now)
        elif failed.is_other_mechanism:
            self.refusals.add("no_key" if self._keys else "has_key", connection.who, self._lack, now)
        elif failed.is_other_key:
            why = "it was given the key of another trainer than this one: `penstock keys add` makes its file anew"
            self.refusals.add("other_trainer", connection.who, why, now)
        elif failed.what is Happening.GARBLED:
            why = f"its handshake breaks the rules of ZeroMQ (error {failed.value:#x})"
            self.refusals.add("handshake", connection.who, why, now)
        elif lasted_s > 0.9 * HANDSHAKE_MS / 1000:
            why = f"it did not finish the handshake within {HANDSHAKE_MS / 1000:g} s"
            self.refusals.add("slow_handshake", connection.who, why, now)
        else:
            why = f"it hung up during the handshake: it only looked whether somebody listens, or {self._lack}"
            self.refusals.add("hung_up", connection.who, why, now)

    def _forget_answer(self, who: str) -> bool:
        """Whether one connection from there was answered for, which it is no longer now."""
        if who not in self._answered:
            return False
        self._answered[who] -= 1
        if not self._answered[who]:
            del self._answered[who]
        return True

    @property
    def _lack(self) -> str:
        if self._keys:
            return "it has no key: give the producer --key FILE, of `penstock keys add`"
        return (
            "it has a key and this rank has none: start the trainer with --stream.keys, or the producer without --key"
        )

    def _stop_floods(self, now: float) -> None:
        """Hang up on those who send much and say nothing; each is looked at often while its handshake may last."""
        self._is_glancing = False
        for descriptor, connection in self._open.items():
            if connection.is_heard or connection.is_ended:
                continue
            age_s = now - connection.since
            is_young = age_s <= 1.5 * HANDSHAKE_MS / 1000
            self._is_glancing |= is_young
            if not is_young and now < self._look_at:
                continue
            most = _MAX_UNHEARD_BYTES + int(_UNHEARD_BYTES_PER_S * age_s)
            if num_received_bytes(descriptor) > most:
                why = f"it sent more than {most} bytes before the rank had heard a word"
                self._end(descriptor, connection, "flood", why, now)

    def _end(self, descriptor: int, connection: _Connection, word: str, why: str, now: float) -> None:
        connection.is_ended = True
        if connection.ends is not None:
            hang_up(descriptor, connection.ends)
        self.refusals.add(word, connection.who, why, now)

    def _make_room(self, now: float) -> None:
        over = len(self._open) - self._max_connections
        if over <= 0:
            return
        there = [(descriptor, each) for descriptor, each in self._open.items() if not each.is_ended]
        over -= len(self._open) - len(there)
        silent = [(descriptor, each) for descriptor, each in there if not each.is_heard]
        # Where all are at work, whoever came last has come too late.
        for descriptor, connection in [*silent, *reversed([pair for pair in there if pair[1].is_heard])][
            : max(0, over)
        ]:
            why = f"there are more connections than max_connections ({self._max_connections})"
            self._end(descriptor, connection, "crowd", why, now)
