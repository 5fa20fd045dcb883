"""The live page's server: a thread of its own beside the run, that ends in bounded time whoever listens."""

import asyncio
import contextlib
import json
import logging
import secrets
import socket
import threading
import zlib
from collections.abc import Callable
from typing import Self

import uvicorn

from penstock.config.address import Address
from penstock.config.listening import listen
from penstock.telemetry.dashboard.application import make_application, static_files
from penstock.telemetry.dashboard.board import Board
from penstock.telemetry.dashboard.connection import MAX_CONNECTIONS, Connection
from penstock.telemetry.dashboard.guard import TOKEN, Guard
from penstock.telemetry.run_view import RunView

EVERY_S = 1.0
"""Between two looks at the run."""
GROUP_EVERY_S = 2.5
"""Between two new groups."""
_FAREWELL_S = 1.0
"""That listeners have at the end to take the last news; then their connections are cut."""
_JOIN_S = 5.0

_log = logging.getLogger(__name__)


class Dashboard:
    """Serves the page from its making to its closing. A context manager; an error that leaves it is told the pages.

    Args:
        address: where to listen.
        token: that readers must bring; None lets everyone who reaches the address read, as on loopback.
        is_own: whether the user has chosen it: then the log does not tell it, for it may open other doors, too.
        every_s, group_every_s: as in `Board`.

    Raises EndpointError where the address is taken or not allowed.
    """

    def __init__(
        self,
        address: Address,
        token: str | None = None,
        *,
        is_own: bool = False,
        every_s: float = EVERY_S,
        group_every_s: float = GROUP_EVERY_S,
    ) -> None:
        self._listener = listen(address, "dashboard")
        self.address = Address(address.host, self._listener.getsockname()[1])
        """Where it really listens."""
        self._board = Board(every_s, group_every_s, _hello(), secret=token)
        guard = Guard(make_application(self._board), token, f"penstock-{self.address.port}", self.address.url)
        self._server = uvicorn.Server(_config(guard))
        self.url = _shown(self.address) + (f"/?token={token}" if token else "/")
        """What opens the page."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._work, name="penstock-dashboard", daemon=True)
        self._thread.start()
        self._started.wait(_JOIN_S)
        _log.info("the run's page is at %s", self.url.replace(token, f"${TOKEN}") if token and is_own else self.url)

    def show(self, source: Callable[[], RunView]) -> None:
        """Show what `source` says, which is asked again and again in the server's thread."""
        self._board.show(source)

    def close(self, because: str = "") -> None:
        """Tell all pages that the run is over, and end. Does nothing the second time.

        Args:
            because: why the run is over, where it did not end as it should.
        """
        if self._loop is not None and self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # the loop has just closed by itself
                self._loop.call_soon_threadsafe(self._end, because)
        self._thread.join(_JOIN_S)
        self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, SystemExit):
            self.close()
        else:  # what is no Exception is a signal
            self.close(str(error) or type(error).__name__ if isinstance(error, Exception) else "it was stopped")

    # --- the server's thread ------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception:  # noqa: BLE001 - a thread's edge: the run goes on without its page
            _log.exception("the run's page has ended by a defect; the run goes on")
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._started.set()
        keeping = asyncio.create_task(self._board.keep())
        keeping.add_done_callback(lambda task: self._stop())
        await self._server.serve(sockets=[self._listener])
        keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeping

    def _end(self, because: str) -> None:
        try:
            self._board.end(because)
        finally:
            self._stop()

    def _stop(self) -> None:
        """Take no more connections, and let those that are there go in peace, for a moment."""
        self._server.should_exit = True
        asyncio.get_running_loop().call_later(_FAREWELL_S, self._cut)

    def _cut(self) -> None:
        """Who has not read its last news by now never will."""
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()


def _config(guard: Guard) -> uvicorn.Config:
    return uvicorn.Config(
        guard,
        loop="asyncio",
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level=logging.ERROR,  # that a stranger sends nonsense is no event, and must not fill the log
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=MAX_CONNECTIONS,  # so many are taken at a time
        timeout_graceful_shutdown=int(2 * _FAREWELL_S),
    )


def _hello() -> str:
    """Who serves, and which page: a browser must not go on with another life's groups, or another version's page."""
    digest = 0
    for path, (content, _) in sorted(static_files().items()):
        digest = zlib.crc32(path.encode() + content, digest)
    return json.dumps({"life": secrets.token_hex(8), "page": f"{digest:08x}"})


def _shown(address: Address) -> str:
    """The address as a browser reaches it: every address of this machine has no name of its own."""
    is_every = address.host in ("0.0.0.0", "::")
    return Address(socket.gethostname(), address.port).url if is_every else address.url
