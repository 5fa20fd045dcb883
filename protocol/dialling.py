"""One connection from a producer to a rank, and why the rank does not let it in.

A rank that refuses a key looks like one that is not there: ZeroMQ gives up without a word. The socket's monitor says
why. ZeroMQ dials again only where the network failed; after a refusal this does, since a key may be allowed meanwhile.
"""

from typing import Final

import zmq

from penstock.protocol.allow_list import short
from penstock.protocol.errors import EndpointError
from penstock.protocol.keys import ProducerKey
from penstock.protocol.limits import MAX_HEADER_BYTES
from penstock.protocol.socket_monitor import Happening, SocketEvent, SocketMonitor
from penstock.protocol.socket_options import HANDSHAKE_MS, LINGER_MS, configure

_REDIAL_S: Final = 2.0
"""How long after a refusal it is tried again."""
_EXCLUDED: Final = 500
"""Status of a handshake with a key that is allowed, and not heard now."""
_MAX_CUT: Final = 3
"""Handshakes in a row that end without a reason before one is assumed."""


class Dial:
    """A DEALER to the rank at `endpoint`, and its monitor.

    Args:
        context: of the producer's sockets.
        endpoint: the rank's.
        rank_key: its public key; empty for that of the first rank, which the producer was given.
        key: the producer's; None for links without keys.
        number: that no other dial of the context has.
        address: `endpoint` with an address in the place of its name; empty where it has none.

    Raises EndpointError where it cannot be dialled.
    """

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        endpoint: str,
        rank_key: str,
        key: ProducerKey | None,
        number: int,
        address: str = "",
    ) -> None:
        self.endpoint = endpoint
        self.address = address
        self.rank_key = rank_key
        self.refused = ""
        """Why the rank does not let this producer in; empty where it does, or has not been reached."""
        self.is_sure = False
        """Whether the rank itself has said so; else it may be that something before it hangs up, as a proxy does."""
        self._key = key
        self._num_cut = 0
        self._dialled_at = self._refused_at = float("-inf")
        self._is_over = False
        self._last = Happening.ENDED
        try:
            self.socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
            self._monitor = SocketMonitor(self.socket, f"dial-{number}")
        except zmq.ZMQError as error:
            raise EndpointError(
                f"cannot connect to {endpoint}: {error}; it is two sockets for each rank, see `ulimit -n`"
            ) from error
        configure(self.socket, address or endpoint, MAX_HEADER_BYTES, has_keys=key is not None)
        if key is not None:
            try:
                self.socket.setsockopt(zmq.CURVE_SERVERKEY, (rank_key or key.trainer).encode())
            except zmq.ZMQError as error:
                self.close(linger_ms=0)
                raise EndpointError(
                    f"cannot connect to {endpoint}: a rank says that {rank_key!r} is its key"
                ) from error
            self.socket.setsockopt(zmq.CURVE_PUBLICKEY, key.pair.public.encode())
            self.socket.setsockopt(zmq.CURVE_SECRETKEY, key.pair.secret.encode())
        # Without a finished connection a send fails at once, so that no HELLO piles up for a rank that is not there.
        self.socket.setsockopt(zmq.IMMEDIATE, 1)
        try:
            self.socket.connect(address or endpoint)
        except zmq.ZMQError as error:
            self.close(linger_ms=0)
            raise EndpointError(
                f"cannot connect to {endpoint!r}: {error}; write tcp://HOST:PORT or ipc://PATH"
            ) from error

    def look(self, now: float) -> bool:
        """Hear what became of the connection. Returns whether it is to be dialled anew, by another `Dial`."""
        for event in self._monitor.events():
            self._take(event, now)
        return self._is_over and now - self._refused_at >= _REDIAL_S

    def _take(self, event: SocketEvent, now: float) -> None:
        last, self._last = self._last, event.what
        match event.what:
            case Happening.DIALLED:
                self._dialled_at = now
            case Happening.IN:
                self.refused, self.is_sure, self._num_cut = "", False, 0
            case Happening.DENIED if event.value == _EXCLUDED:
                why = "is not heard for a while, after too many messages that were refused; the rank's log says more"
                self._give_up(f"{self.endpoint}: {self._mine} {why}", now)
            case Happening.DENIED:
                self._give_up(f"{self.endpoint} refuses {self._mine}: ask its owner for `penstock keys add`", now)
            case Happening.GARBLED if event.is_other_mechanism:
                self._give_up(f"{self.endpoint} {self._lack}", now)
            case Happening.GARBLED:
                self._give_up(
                    f"{self.endpoint} breaks the rules of ZeroMQ (error {event.value:#x}); is it a rank?", now
                )
            case Happening.CUT if now - self._dialled_at < 0.9 * HANDSHAKE_MS / 1000:
                # Else it did not answer at all, as one that is frozen.
                self._num_cut += 1
                if self._num_cut >= _MAX_CUT:
                    self.refused = f"{self.endpoint} ends every handshake: most likely it {self._guess}"
            case Happening.ENDED if last is Happening.DIALLED:
                self._give_up(f"{self.endpoint} speaks no ZeroMQ: is it the address of a rank?", now)

    def _give_up(self, why: str, now: float) -> None:
        self.refused, self.is_sure, self._refused_at, self._is_over = why, True, now, True

    @property
    def _mine(self) -> str:
        return f"the key {short(self._key.pair.public)} of {self._key.file}" if self._key else "this producer"

    @property
    def _lack(self) -> str:
        if self._key is None:
            return "wants a key: give this producer --key FILE, of `penstock keys add`"
        return f"has no keys and this producer has {self._key.file}: leave out --key, or start it with --stream.keys"

    @property
    def _guess(self) -> str:
        if self._key is None:
            return "wants a key (--key FILE, of `penstock keys add`)"
        return f"has another key than {self._key.file} says, as that of another trainer, or none"

    def close(self, linger_ms: int = LINGER_MS) -> None:
        """Close within the linger time."""
        self._monitor.close()
        self.socket.close(linger=linger_ms)
