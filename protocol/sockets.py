"""Sockets under the state machines: one ROUTER on each rank, one DEALER per rank on each producer.

One DEALER connected to two ROUTERs sends replies to the wrong one, so a producer holds one for each rank. Every
send is non-blocking and says whether it went: a ROUTER drops silently at its high-water mark unless it is made to
complain. Pixels are not copied on either side.
"""

import socket
import threading
from collections.abc import Iterator
from enum import Enum, auto
from pathlib import Path
from typing import Self

import zmq
from zmq.auth.thread import ThreadAuthenticator

from penstock.protocol.actions import Buffer
from penstock.protocol.addresses import advertised, check_dialled, check_endpoint, nearby, to_bind
from penstock.protocol.errors import EndpointError, PenstockError
from penstock.protocol.keys import AllowList, ProducerKey, TrainerKeys
from penstock.protocol.limits import MAX_GROUP_BYTES, MAX_HEADER_BYTES, MAX_PRODUCERS, MAX_RANKS

_DOMAIN = "penstock"
"""Of ZeroMQ's authentication protocol (RFC 27): whatever it is, it must be some."""
_LINGER_MS = 1000
"""How long a closing socket may still deliver, so that a BYE arrives and a shutdown stays bounded."""
_HIGH_WATER_MESSAGES = 1024
"""Messages queued per peer and direction. Credits, counted in bytes, bound memory long before this does."""

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


def _configure(zmq_socket: zmq.Socket[bytes], endpoint: str, max_frame_bytes: int) -> None:
    zmq_socket.setsockopt(zmq.LINGER, _LINGER_MS)
    zmq_socket.setsockopt(zmq.SNDHWM, _HIGH_WATER_MESSAGES)
    zmq_socket.setsockopt(zmq.RCVHWM, _HIGH_WATER_MESSAGES)
    zmq_socket.setsockopt(zmq.MAXMSGSIZE, max_frame_bytes)
    zmq_socket.setsockopt(zmq.HANDSHAKE_IVL, 2000)
    zmq_socket.setsockopt(zmq.HEARTBEAT_IVL, 2000)
    zmq_socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 10_000)
    # Only where asked for: with it an IPv4 address is reported as [::ffff:127.0.0.1].
    zmq_socket.setsockopt(zmq.IPV6, int("[" in endpoint))


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


class _Allowed:
    """The list of producers, as the authenticator asks for it."""

    def __init__(self, allowed: AllowList) -> None:
        self._allowed = allowed

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether a client with this public key, as text, may connect."""
        self._allowed.refresh()
        return self._allowed.name(key.decode()) is not None


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
        _configure(self._socket, wanted, max(group_bytes, MAX_HEADER_BYTES))
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._gate = self._open_gate(keys) if keys else None
        try:
            self._socket.bind(wanted)
        except zmq.ZMQError as error:
            self.close()
            if error.errno == zmq.EADDRINUSE:
                raise EndpointError(
                    f"{endpoint} is in use by another program; choose another address with --stream.endpoint "
                    "(port 0 takes a free one)"
                ) from error
            raise EndpointError(f"cannot bind {endpoint}: {error}") from error
        bound = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        try:
            self.endpoint, self.local_endpoint = advertised(bound, advertise), nearby(bound)
        except PenstockError:
            self.close()
            raise
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self.waker.socket, zmq.POLLIN)

    def _open_gate(self, keys: TrainerKeys) -> ThreadAuthenticator:
        """Encrypt, and let in only whom the list allows: without the second, whoever knows the public key gets in."""
        gate = ThreadAuthenticator(self._context)
        gate.start()
        gate.configure_curve_callback(_DOMAIN, _Allowed(keys.allowed))
        self._socket.setsockopt_string(zmq.ZAP_DOMAIN, _DOMAIN)
        self._socket.setsockopt(zmq.CURVE_SERVER, 1)
        self._socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.pair.public.encode())
        self._socket.setsockopt(zmq.CURVE_SECRETKEY, keys.pair.secret.encode())
        return gate

    def wait(self, timeout_ms: int) -> None:
        """Until something has come, a wake, or `timeout_ms`."""
        ready = dict(self._poller.poll(timeout_ms))
        if self.waker.socket in ready:
            self.waker.drain()

    def received(self) -> Iterator[tuple[bytes, list[memoryview]]]:
        """What has come, as (peer, frames), frames not copied.

        Ends after `MESSAGES_PER_TURN`: one who floods must not keep the caller from all else.
        """
        for identity, *frames in _received(self._socket):
            yield identity.bytes, [frame.buffer for frame in frames]

    def send(self, peer: bytes, header: bytes) -> Sent:
        """Send without waiting."""
        try:
            self._socket.send_multipart([peer, header], zmq.NOBLOCK)
        except zmq.Again:
            return Sent.FULL
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return Sent.UNREACHABLE
            raise
        return Sent.QUEUED

    def close(self) -> None:
        """Close within the linger time; nothing is left behind. Does nothing the second time."""
        if self._context.closed:
            return
        self.waker.close()
        self._socket.close(linger=_LINGER_MS)
        if self._gate is not None:
            self._gate.stop()
        self._context.term()
        if self.endpoint.startswith("ipc://") and not self.endpoint.startswith("ipc://@"):
            # ZeroMQ leaves it.
            Path(self.endpoint.removeprefix("ipc://")).unlink(missing_ok=True)


class ProducerSockets:
    """The DEALERs of a producer, one for each rank, named by their endpoint; plain without a key."""

    def __init__(self, key: ProducerKey | None = None) -> None:
        self._key = key
        self._context = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, MAX_RANKS + 16)
        self.waker = Waker(self._context)
        self._sockets: dict[bytes, zmq.Socket[bytes]] = {}
        self._peers: dict[zmq.Socket[bytes], bytes] = {}
        self._poller = zmq.Poller()
        self._poller.register(self.waker.socket, zmq.POLLIN)

    def connect(self, endpoint: str, key: str = "") -> None:
        """Dial a rank. Returns at once, also where nobody listens yet. Raises EndpointError on a malformed address.

        Args:
            endpoint: where.
            key: the rank's public key; empty for that of the first rank, which this producer was given.
        """
        check_dialled(endpoint)
        try:
            dealer: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        except zmq.ZMQError as error:
            raise EndpointError(
                f"cannot connect to {endpoint}: {error}; it is one socket for each rank, see `ulimit -n`"
            ) from error
        _configure(dealer, endpoint, MAX_HEADER_BYTES)
        if self._key is not None:
            dealer.setsockopt(zmq.CURVE_SERVERKEY, (key or self._key.trainer).encode())
            dealer.setsockopt(zmq.CURVE_PUBLICKEY, self._key.pair.public.encode())
            dealer.setsockopt(zmq.CURVE_SECRETKEY, self._key.pair.secret.encode())
        # Without a finished connection a send fails at once, so that no HELLO piles up for a rank that is not there.
        dealer.setsockopt(zmq.IMMEDIATE, 1)
        try:
            dealer.connect(endpoint)
        except zmq.ZMQError as error:
            dealer.close(linger=0)
            raise EndpointError(
                f"cannot connect to {endpoint!r}: {error}; write tcp://HOST:PORT or ipc://PATH"
            ) from error
        self._sockets[endpoint.encode()] = dealer
        self._peers[dealer] = endpoint.encode()
        self._poller.register(dealer, zmq.POLLIN)

    def recv(self, timeout_ms: int) -> Iterator[tuple[bytes, list[memoryview]]]:
        """What has come, as (peer, frames); nothing after `timeout_ms` or a wake.

        Ends after `MESSAGES_PER_TURN` from each rank.
        """
        ready = dict(self._poller.poll(timeout_ms))
        if self.waker.socket in ready:
            self.waker.drain()
        for dealer, peer in list(self._peers.items()):
            for frames in _received(dealer) if dealer in ready else ():
                yield peer, [frame.buffer for frame in frames]

    def send(self, peer: bytes, header: bytes, payload: Buffer | None = None) -> bool:
        """Send without waiting and, from 64 KiB, without a copy; False where the rank is away or the queue is full."""
        try:
            self._sockets[peer].send_multipart(
                [header] if payload is None else [header, payload], zmq.NOBLOCK, copy=False
            )
        except zmq.Again:
            return False
        return True

    def close(self) -> None:
        """Close within the linger time; nothing is left behind."""
        self.waker.close()
        for dealer in self._sockets.values():
            dealer.close(linger=_LINGER_MS)
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
