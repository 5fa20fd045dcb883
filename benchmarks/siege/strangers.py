"""Hundreds of connections of people without a key: `python -m siege.strangers JSON`, from `benchmarks/`.

- silent: connects, and says nothing;
- slow: begins ZeroMQ's greeting, and sends a byte of it from time to time (slow-loris);
- http: asks for a web page;
- noise: sends random bytes;
- plain: a ZeroMQ client that knows of no keys, and says HELLO;
- wrong_key: a ZeroMQ client that knows the rank's public key and has made up its own.

Whoever is hung up on comes again. The report says how many there were at a time and in all, how often each kind was
hung up on, and how often one got in.
"""

import json
import os
import selectors
import socket
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import zmq
from zmq.utils.monitor import parse_monitor_message

from penstock.protocol.codec import encode
from penstock.protocol.messages import Header, Hello
from siege.insider import paced_manifest
from siege.insiders import GIVES_WAY

RAW = {"silent": 160, "slow": 160, "http": 40, "noise": 40}
CLIENTS = {"plain": 40, "wrong_key": 40}
"""How many of each kind there are: the first two are hung up on only by their time, so they make the crowd."""
_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"CURVE".ljust(20, b"\0") + bytes(32)
"""Of ZMTP 3.0, 64 bytes."""
_TURN_S = 0.05
_BYTE_S = 0.2
"""Between two bytes of a slow one."""
_CONNECT_S = 0.5
"""How long a call may wait for the rank to take it."""
_AGAIN_S = 0.2
"""From the end of a connection to the next one."""
_ENDS = {
    zmq.EVENT_DISCONNECTED,
    zmq.EVENT_CLOSED,
    zmq.EVENT_HANDSHAKE_FAILED_AUTH,
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
}
"""Events after which a client is done with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StrangerPlan:
    """Who comes."""

    port: int
    """Of the rank, on this machine."""
    rank_key: str
    """Its public key; empty where it has none."""
    until: str
    """File whose coming ends it."""
    report: str


@dataclass(slots=True)
class Seen:
    """What became of them."""

    opened: Counter[str] = field(default_factory=Counter)
    hung_up: Counter[str] = field(default_factory=Counter)
    let_in: Counter[str] = field(default_factory=Counter)
    at_a_time: Counter[str] = field(default_factory=Counter)
    """The most that were open at a time, by kind."""
    together: int = 0
    """The most of all kinds that were open at a time."""


class RawCallers:
    """Sockets that speak no ZeroMQ, or only its first bytes."""

    def __init__(self, plan: StrangerPlan, seen: Seen) -> None:
        self._plan, self._seen = plan, seen
        self._selector = selectors.DefaultSelector()
        self.open: Counter[str] = Counter()
        self._due = [(0.0, kind) for kind, number in RAW.items() for _ in range(number)]
        """When the next of a kind calls."""
        self._slow: dict[socket.socket, tuple[float, int]] = {}
        """When each of them sends again, and how many bytes it has sent."""

    def turn(self, now: float) -> None:
        """Call where it is time, say the next byte, and see who was hung up on."""
        calling = [kind for at, kind in self._due if at <= now]
        self._due = [(at, kind) for at, kind in self._due if at > now]
        for kind in calling:
            self._call(kind, now)
        for caller, (at, num_sent) in list(self._slow.items()):
            if at <= now and num_sent < len(_GREETING):
                with suppress(OSError):
                    caller.send(_GREETING[num_sent : num_sent + 1])
                self._slow[caller] = now + _BYTE_S, num_sent + 1
        for key, _ in self._selector.select(0):
            caller, kind = cast(socket.socket, key.fileobj), key.data
            try:
                is_over = caller.recv(4096) == b""
            except BlockingIOError:
                continue
            except OSError:
                is_over = True
            if is_over:
                self._seen.hung_up[kind] += 1
                self._end(caller, kind, now)

    def _call(self, kind: str, now: float) -> None:
        caller = socket.socket()
        try:
            caller.settimeout(_CONNECT_S)
            caller.connect(("127.0.0.1", self._plan.port))
            caller.settimeout(0)
            if kind == "http":
                caller.send(b"GET / HTTP/1.1\r\nHost: rank\r\nUser-Agent: browser\r\n\r\n")
            elif kind == "noise":
                caller.send(os.urandom(4096))
        except OSError:
            caller.close()
            self._due.append((now + _AGAIN_S, kind))
            return
        if kind == "slow":
            self._slow[caller] = now, 0
        self._seen.opened[kind] += 1
        self.open[kind] += 1
        self._selector.register(caller, selectors.EVENT_READ, kind)

    def _end(self, caller: socket.socket, kind: str, now: float) -> None:
        self._selector.unregister(caller)
        self._slow.pop(caller, None)
        caller.close()
        self.open[kind] -= 1
        self._due.append((now + _AGAIN_S, kind))


class Clients:
    """ZeroMQ's own sockets, with no key or a wrong one, each with its monitor."""

    def __init__(self, plan: StrangerPlan, seen: Seen) -> None:
        self._seen = seen
        self.open: Counter[str] = Counter()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, 16 * sum(CLIENTS.values()))
        self._poller = zmq.Poller()
        self._plan = plan
        self._calling: dict[zmq.Socket[bytes], tuple[str, zmq.Socket[bytes]]] = {}
        """By monitor: the kind of a client, and itself."""
        self._due = [(0.0, kind) for kind, number in CLIENTS.items() for _ in range(number)]

    def _call(self, kind: str) -> None:
        plan = self._plan
        client = self._context.socket(zmq.DEALER)
        client.setsockopt(zmq.LINGER, 0)
        client.setsockopt(zmq.RECONNECT_IVL, -1)
        if kind == "wrong_key":
            public, secret = zmq.curve_keypair()
            client.setsockopt(zmq.CURVE_SERVERKEY, plan.rank_key.encode())
            client.setsockopt(zmq.CURVE_PUBLICKEY, public)
            client.setsockopt(zmq.CURVE_SECRETKEY, secret)
        monitor = client.get_monitor_socket()
        self._calling[monitor] = kind, client
        self._poller.register(monitor, zmq.POLLIN)
        client.connect(f"tcp://127.0.0.1:{plan.port}")
        with suppress(zmq.Again):  # hung up on already
            client.send(encode(Hello(producer=kind, manifest=paced_manifest()), Header()), zmq.NOBLOCK)

    def turn(self, now: float) -> None:
        """Call where it is time, and read what the monitors say."""
        calling = [kind for at, kind in self._due if at <= now]
        self._due = [(at, kind) for at, kind in self._due if at > now]
        for kind in calling:
            self._call(kind)
        for monitor, _ in self._poller.poll(0):
            events = []
            while monitor.poll(0):
                events.append(parse_monitor_message(monitor.recv_multipart())["event"])
            self._note(monitor, events, now)

    def _note(self, monitor: "zmq.Socket[bytes]", events: Sequence[Any], now: float) -> None:
        kind, _ = self._calling[monitor]
        if zmq.EVENT_CONNECTED in events:
            self._seen.opened[kind] += 1
            self.open[kind] += 1
        self._seen.let_in[kind] += events.count(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        if not _ENDS.isdisjoint(events):
            if zmq.EVENT_CLOSED not in events:  # that is the end of a connection which did not come about
                self.open[kind] -= 1
                self._seen.hung_up[kind] += 1
            self._end(monitor)
            self._due.append((now + _AGAIN_S, kind))

    def _end(self, monitor: "zmq.Socket[bytes]") -> None:
        _, client = self._calling.pop(monitor)
        self._poller.unregister(monitor)
        client.disable_monitor()
        client.close(linger=0)
        monitor.close(linger=0)

    def close(self) -> None:
        """End all of them."""
        for monitor in list(self._calling):
            self._end(monitor)
        self._context.term()


def come(plan: StrangerPlan) -> Seen:
    """Call, again and again, until it is enough."""
    seen, until = Seen(), Path(plan.until)
    raw, clients = RawCallers(plan, seen), Clients(plan, seen)
    while not until.exists():
        raw.turn(time.monotonic())
        clients.turn(time.monotonic())
        now_open = raw.open + clients.open
        seen.together = max(seen.together, now_open.total())
        for kind, number in now_open.items():
            seen.at_a_time[kind] = max(seen.at_a_time[kind], number)
        time.sleep(_TURN_S)
    clients.close()
    return seen


def main(argument: str) -> None:
    """Be the strangers that the plan describes, and write down what came of it."""
    os.nice(GIVES_WAY)
    plan = StrangerPlan(**json.loads(argument))
    seen = come(plan)
    report = {name: getattr(seen, name) for name in Seen.__slots__}
    Path(plan.report).write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
