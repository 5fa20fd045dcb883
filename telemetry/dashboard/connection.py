"""A connection to the page that costs the trainer little, whoever holds its other end.

uvicorn takes any number of connections and waits without end for a request to become whole: whoever reaches the port
could take all file descriptors of the process, and the next checkpoint could not be opened.
"""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

from penstock.config.address import Address
from penstock.telemetry.dashboard.board import MAX_LISTENERS

MAX_CONNECTIONS = 4 * MAX_LISTENERS
"""Beyond them a connection is closed at once."""
MAX_FROM_ONE_HOST = MAX_CONNECTIONS // 2
"""Of them, from one other machine: it must not be able to keep all others out."""
PATIENCE_S = 10.0
"""How long a request may take to become whole, from the connection's beginning or the answer before."""


class Connection(H11Protocol):
    """Hangs up on those that are too many, and on those that ask too slowly."""

    _overdue: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Somebody has connected."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS or self._is_greedy():
            transport.abort()
        else:
            self._expect_request()

    def on_response_complete(self) -> None:
        """A request has been answered."""
        super().on_response_complete()
        self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended."""
        if self._overdue:
            self._overdue.cancel()
        super().connection_lost(exc)

    def _is_greedy(self) -> bool:
        """Whether another machine has more connections than one may; a tunnel or a proxy on this one is many."""
        if self.client is None or Address(self.client[0], self.client[1]).is_loopback:
            return False
        mine = (other for other in self.connections if isinstance(other, Connection) and other.client)
        return sum(other.client[0] == self.client[0] for other in mine if other.client) > MAX_FROM_ONE_HOST

    def _expect_request(self) -> None:
        if self._overdue:
            self._overdue.cancel()
        self._overdue = self.loop.call_later(PATIENCE_S, self._hang_up)

    def _hang_up(self) -> None:
        if self.cycle is None or self.cycle.response_complete:  # else an answer is on its way
            self.transport.abort()
