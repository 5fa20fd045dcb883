"""Whom a producer dials: ranks by their addresses, and those that have a name at each of its addresses in turn.

Names are looked up on a thread: a name server that does not answer must not hold heartbeats up. ZeroMQ would look
them up on the thread that carries every message, take the first address, and never another.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from penstock.protocol.addresses import look_up, split_host
from penstock.protocol.errors import EndpointError
from penstock.protocol.sockets import ProducerSockets

_log = logging.getLogger(__name__)

_SAID_EVERY_S = 60.0
"""How often it is said of a name that it has no address."""


@dataclass(slots=True)
class _Name:
    """A rank that is dialled by its name."""

    key: str
    turn: int = 0
    """Which of its addresses comes next."""
    dialled: tuple[str, str] = ("", "")
    """Key and address that are dialled now."""
    is_asked: bool = False
    """Its addresses are being looked up."""
    said_at: float = float("-inf")


class Dialler:
    """Dials ranks and hangs up. `dial` may raise; a name that has no address yet is only said to have none.

    Args:
        sockets: what it dials with.
        look_up: addresses of a name, as `addresses.look_up`.
    """

    def __init__(self, sockets: ProducerSockets, look_up: Callable[[str, int], list[str]] = look_up) -> None:
        self._sockets = sockets
        self._look_up = look_up
        self._names: dict[str, _Name] = {}
        self._dialled: dict[str, str] = {}
        """Keys of the ranks that are dialled by address."""
        self._answers: queue.SimpleQueue[tuple[str, list[str] | OSError]] = queue.SimpleQueue()

    def dial(self, endpoint: str, key: str) -> None:
        """Dial a rank. Again, it is dialled anew where it has another key or another address than before.

        Raises EndpointError where the address or the key is malformed.
        """
        host = split_host(endpoint)
        if host is None:
            # ZeroMQ itself goes on trying an address.
            if self._dialled.get(endpoint) != key:
                self._sockets.connect(endpoint, key)
                self._dialled[endpoint] = key
            return
        name = self._names.setdefault(endpoint, _Name(key))
        name.key = key
        if not name.is_asked:
            name.is_asked = True
            threading.Thread(target=self._ask, args=(endpoint, *host), name="penstock-names", daemon=True).start()

    def hang_up(self, endpoint: str) -> None:
        """Forget a rank."""
        self._names.pop(endpoint, None)
        self._dialled.pop(endpoint, None)
        self._sockets.disconnect(endpoint)

    def answer(self) -> None:
        """Dial the names whose addresses have been found. For the thread of the sockets."""
        while not self._answers.empty():
            endpoint, found = self._answers.get()
            name = self._names.get(endpoint)
            if name is None:
                continue
            name.is_asked = False
            if isinstance(found, OSError):
                self._say(endpoint, name, found)
            else:
                self._dial_next(endpoint, name, found)

    def _ask(self, endpoint: str, host: str, port: int) -> None:
        try:
            found = self._look_up(host, port)
        except OSError as error:
            self._answers.put((endpoint, error))
        else:
            self._answers.put((endpoint, found))
        self._sockets.waker.wake()

    def _dial_next(self, endpoint: str, name: _Name, found: list[str]) -> None:
        chosen = (name.key, found[name.turn % len(found)])
        name.turn += 1
        if chosen == name.dialled:
            return
        name.dialled = chosen
        try:
            self._sockets.connect(endpoint, name.key, chosen[1])
        except EndpointError as error:
            _log.warning("a rank is not served: %s", error)

    def _say(self, endpoint: str, name: _Name, error: OSError) -> None:
        if time.monotonic() - name.said_at >= _SAID_EVERY_S:
            name.said_at = time.monotonic()
            _log.warning("%s has no address yet (%s); trying again", endpoint, error.strerror or error)
