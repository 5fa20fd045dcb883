"""Sockets under the state machines: one ROUTER on each rank, one DEALER per rank on each producer.

One DEALER connected to two ROUTERs sends replies to the wrong one, so a producer holds one for each rank. Every
send is non-blocking and says whether it went: a ROUTER drops silently at its high-water mark unless it is made to
complain. Pixels are not copied on either side.
"""

import errno
import socket
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from enum import Enum, auto
from pathlib import Path
from typing import Self

import zmq

from penstock.protocol.actions import Buffer
from penstock.protocol.addresses import advertised, check_dialled, check_endpoint, nearby, to_bind
from penstock.protocol.callers import Callers
from penstock.protocol.descriptors import room_for
from penstock.protocol.dialling import Dial
from penstock.protocol.errors import EndpointError, PenstockError, RunError
from penstock.protocol.gate import Gate
from penstock.protocol.keys import ProducerKey, TrainerKeys
from penstock.protocol.limits import MAX_GROUP_BYTES, MAX_HEADER_BYTES, MAX_PRODUCERS, MAX_RANKS
from penstock.protocol.refusals import Refusal
from penstock.protocol.socket_options import LINGER_MS, configure

_GLANCE_S = 0.2
"""How often a producer looks at what became of its connections."""
MESSAGES_PER_TURN = 256
"""Messages of one socket that are heard before anything else happens."""


def _claim_ipc(path: Path) -> None:
    """Make sure that `path` may be bound: ZeroMQ deletes whatever lies there, a file or a living program's socket."""
    if not path.exists():
        return
    if not path.is_socket():
        raise EndpointError(f"ipc://{path} is a file; choose another path")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return  # left behind by a program that was killed
        except OSError as error:
            raise EndpointError(f"cannot bind ipc://{path}: {error.strerror}") from error
    raise EndpointError(f"ipc://{path} is in use by another program; choose another path")


class Waker:
    """Lets one thread wake another out of its poll. Any thread may call `wake`; one polls `socket`."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        address = f"inproc://waker-{id(self)}"
        self.socket = context.socket(zmq.PULL)
        self.socket.bind(address)
        self._bell = context.socket(zmq.PUSH)
        self._bell.setsockopt(zmq.SNDHWM, 8)
        self._bell.connect(address)
        self._lock = threading.Lock()

    def wake(self) -> None:
        """Wake the polling thread; does nothing where it has not woken from the last calls yet."""
        with self._lock:
            if not self._bell.closed:
                try:
                    self._bell.send(b"", zmq.NOBLOCK)
                except zmq.Again:
                    return

    def drain(self) -> None:
        """Forget the calls so far; for the polling thread."""
        while self.socket.poll(0):
            self.socket.recv(zmq.NOBLOCK)

    def close(self) -> None:
        """Close both ends."""
        with self._lock:
            self._bell.close(linger=0)
        self.socket.close(linger=0)


def _received(zmq_socket: zmq.Socket[bytes]) -> Iterator[list[zmq.Frame]]:
    """Messages that are there, at most `MESSAGES_PER_TURN`."""
    for _ in range(MESSAGES_PER_TURN):
        try:
            yield zmq_socket.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return


class Sent(Enum):
    """What became of a message that was to be sent without waiting."""

    QUEUED = auto()
    FULL = auto()
    """The peer's queue is full; it may have room later."""
    UNREACHABLE = auto()
    """The connection behind the name is gone, and the name with it."""


class RankSocket:
    """The ROUTER that a rank binds.

    Args:
        endpoint: where; see `addresses.check_endpoint`.
        insecure: allow addresses beyond loopback without keys.
        advertise: HOST or HOST:PORT that producers are told to dial; empty for what is bound.
        keys: the trainer's; without them the link is plain.
        max_connections: that are held at a time.
        group_bytes: bytes of the largest group that can come; a larger frame ends its sender's connection.

    Raises EndpointError where the address is taken, malformed or beyond loopback without `insecure`.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        insecure: bool = False,
        group_bytes: int = MAX_GROUP_BYTES,
        advertise: str = "",
        keys: TrainerKeys | None = None,
        max_connections: int = MAX_PRODUCERS,
    ) -> None:
        check_endpoint(endpoint, may_leave=insecure or keys is not None)
        wanted = to_bind(endpoint)
        if endpoint.startswith("ipc://"):
            _claim_ipc(Path(endpoint.removeprefix("ipc://")))
        self._context = zmq.Context()
        self.endpoint = ""
        """That producers dial."""
        self.local_endpoint = ""
        """That producers on this machine may dial, too."""
        self.key = keys.pair.public if keys else ""
        """The public key of this rank; empty where the link has none."""
        self.waker = Waker(self._context)
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        configure(self._socket, wanted, max(group_bytes, MAX_HEADER_BYTES), has_keys=keys is not None)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        most = room_for(max_connections)
        self._gate = Gate(self._socket, keys, most, is_ipc=endpoint.startswith("ipc://"))
        self._callers = Callers(self._gate, keys.allowed if keys else None, most)
        self._allowed = keys.allowed if keys else None
        if most < max_connections:
            self._gate.refusals.warn("max_connections", _few_descriptors(max_connections, most), time.monotonic())
        self._gate.open()
        try:
            self._socket.bind(wanted)
        except zmq.ZMQError as error:
            self.close()
            if error.errno == zmq.EADDRINUSE:
                raise EndpointError(
                    f"{endpoint} is in use by another program; choose another address with --stream.endpoint "
                    "(port 0 takes a free one)"
                ) from error
            if error.errno == errno.EADDRNOTAVAIL:
                raise EndpointError(
                    f"cannot bind {endpoint}: this machine has no such address; give --stream.endpoint one of its own, "
                    "an interface or *, and --stream.advertise what others dial"
                ) from error
            raise EndpointError(f"cannot bind {endpoint}: {error.strerror}") from error
        bound = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        try:
            self.endpoint, self.local_endpoint = advertised(bound, advertise), nearby(bound)
        except PenstockError:
            self.close()
            raise
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self.waker.socket, zmq.POLLIN)

    def wait(self, timeout_ms: int) -> None:
        """Until something has come, a wake, or `timeout_ms`. Raises RunError where the gate has broken."""
        if self._gate.error is not None:
            raise RunError(f"the gate of {self.endpoint} broke: {self._gate.error!r}") from self._gate.error
        ready = dict(self._poller.poll(timeout_ms))
        if self.waker.socket in ready:
            self.waker.drain()

    def received(self) -> Iterator[tuple[bytes, list[memoryview]]]:
        """What has come of those who may speak, as (peer, frames), frames not copied.

        Ends after `MESSAGES_PER_TURN`: one who floods must not keep the caller from all else.
        """
        for identity, *frames in _received(self._socket):
            if self._callers.may_speak(identity, frames[0]):
                yield identity.bytes, [frame.buffer for frame in frames]

    def send(self, peer: bytes, header: bytes) -> Sent:
        """Send without waiting."""
        try:
            self._socket.send_multipart([peer, header], zmq.NOBLOCK)
        except zmq.Again:
            return Sent.FULL
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                self._callers.forget(peer)
                return Sent.UNREACHABLE
            raise
        return Sent.QUEUED

    def admit_ranks(self, keys: Collection[str]) -> None:
        """Let in whoever holds the key of another rank: that rank's own producers."""
        if self._allowed is not None:
            self._allowed.admit_ranks(keys)

    def key_name(self, peer: bytes) -> str:
        """What the key of a peer is called that has said something; empty where the link has no keys."""
        return self._callers.key_name(peer)

    def blame(self, peer: bytes, now: float) -> None:
        """A message of this peer was refused: of whoever is refused too many nothing more is heard for a while."""
        self._callers.blame(peer, now)

    def let_go(self, now: float) -> list[tuple[bytes, str]]:
        """Peers that are not heard any more, each once, and why: their key was revoked, or most that they said refused.

        A second later they are hung up on. To be called several times a second, with the time on the monotonic clock.
        """
        return self._callers.let_go(now)

    def refusals(self) -> list[Refusal]:
        """Connections that were refused since the last call."""
        return self._gate.refusals.take()

    def close(self) -> None:
        """Close within the linger time; nothing is left behind. Does nothing the second time."""
        if self._context.closed:
            return
        self.waker.close()
        self._gate.close()
        self._socket.close(linger=LINGER_MS)
        self._context.term()
        if self.endpoint.startswith("ipc://") and not self.endpoint.startswith("ipc://@"):
            # ZeroMQ leaves it.
            Path(self.endpoint.removeprefix("ipc://")).unlink(missing_ok=True)


def _few_descriptors(wanted: int, most: int) -> str:
    return f"max_connections is {wanted} and there are descriptors for {most}: raise the system's limit (`ulimit -Hn`)"


class ProducerSockets:
    """The DEALERs of a producer, one for each rank, named by their endpoint; plain without a key."""

    def __init__(self, key: ProducerKey | None = None) -> None:
        self._key = key
        self._context = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, 3 * MAX_RANKS + 16)
        self.waker = Waker(self._context)
        self._dials: dict[bytes, Dial] = {}
        self._num_dials = 0
        self._glance_at = float("-inf")
        self._poller = zmq.Poller()
        self._poller.register(self.waker.socket, zmq.POLLIN)

    def connect(self, endpoint: str, key: str = "", address: str = "") -> None:
        """Dial a rank, anew where it was dialled before. Returns at once, also where nobody listens yet.

        Args:
            endpoint: where; names the rank from then on.
            key: the rank's public key; empty for that of the first rank, which this producer was given.
            address: `endpoint` with an address in the place of its name; empty where it has none.

        Raises EndpointError on a malformed address, or where there is no room for one more.
        """
        check_dialled(endpoint)
        self.disconnect(endpoint)
        self._num_dials += 1
        dial = Dial(self._context, endpoint, key, self._key, self._num_dials, address)
        self._dials[endpoint.encode()] = dial
        self._poller.register(dial.socket, zmq.POLLIN)

    def disconnect(self, endpoint: str) -> None:
        """Hang up, once what waits has gone or the linger time is over. Does nothing where nobody was dialled."""
        if (dial := self._dials.pop(endpoint.encode(), None)) is not None:
            self._poller.unregister(dial.socket)
            dial.close()

    def refusals(self, now: float) -> Sequence[tuple[str, bool]]:
        """Why ranks do not let this producer in, and whether that is sure.

        Dials those again that have refused it some seconds ago. To be called several times a second, with the time on
        the monotonic clock.
        """
        if now >= self._glance_at:
            self._glance_at = now + _GLANCE_S
            for dial in list(self._dials.values()):
                if dial.look(now):
                    self.connect(dial.endpoint, dial.rank_key, dial.address)
                    again = self._dials[dial.endpoint.encode()]
                    again.refused, again.is_sure = dial.refused, dial.is_sure  # until it is known better
        return [(dial.refused, dial.is_sure) for dial in self._dials.values() if dial.refused]

    def recv(self, timeout_ms: int) -> Iterator[tuple[bytes, list[memoryview]]]:
        """What has come, as (peer, frames); nothing after `timeout_ms` or a wake.

        Ends after `MESSAGES_PER_TURN` from each rank.
        """
        ready = dict(self._poller.poll(timeout_ms))
        if self.waker.socket in ready:
            self.waker.drain()
        for peer, dial in list(self._dials.items()):
            for frames in _received(dial.socket) if dial.socket in ready else ():
                yield peer, [frame.buffer for frame in frames]

    def send(self, peer: bytes, header: bytes, payload: Buffer | None = None) -> bool:
        """Send without waiting and, from 64 KiB, without a copy; False where the rank is away or the queue is full."""
        dial = self._dials.get(peer)
        if dial is None:
            return False
        try:
            dial.socket.send_multipart([header] if payload is None else [header, payload], zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return False
        return True

    def close(self) -> None:
        """Close within the linger time; nothing is left behind. Does nothing the second time."""
        if self._context.closed:
            return
        self.waker.close()
        for dial in self._dials.values():
            dial.close()
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
