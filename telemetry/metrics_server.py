"""Serves a process's metrics and health over HTTP, read-only, from threads of its own.

The standard library's server and not prometheus-client's: that one takes any number of connections, holds each for as
long as its client likes, and asks the name service who it is. Here a client that is slow, many or hostile costs itself.
"""

import contextlib
import itertools
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Final, Self

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from penstock.config.access import brings
from penstock.config.address import Address
from penstock.protocol.errors import EndpointError
from penstock.telemetry.health import PROBES, STARTING, Health

_log = logging.getLogger(__name__)

PATH: Final = "/metrics"

_MAX_CONNECTIONS = 8
"""Beyond them a connection is closed at once."""
_MAX_FROM_ONE_HOST = 4
"""Of them, from one other machine: it must not be able to keep Prometheus out."""
_PATIENCE_S = 5.0
"""How long a client may take from its connection to the end of the answer."""
_POLL_S = 0.2
"""How often the thread that accepts looks whether it should end: `close` waits for that."""


class MetricsServer:
    """Listens as soon as it is made; what is not collected yet follows. A context manager.

    Args:
        address: where.
        name: of the setting, for errors.
        token: that readers must bring; None lets everyone who reaches the address read.

    Raises:
        EndpointError: nobody can listen there.
    """

    def __init__(self, address: Address, name: str = "metrics", *, token: str | None = None) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        try:
            self._server = _Server(address, self._registry, token)
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or error
            raise EndpointError(
                f"{name}: cannot listen at {address.host}, port {address.port}: {why}; choose another address"
            ) from error
        self.address = Address(address.host, self._server.server_address[1])
        """Where it really listens."""
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=[_POLL_S], name="penstock-metrics", daemon=True
        )
        self._thread.start()
        reach = "" if address.is_loopback else ", open to all who reach this machine"
        reach = ", to whoever brings the token" if token else reach
        _log.info("metrics at %s%s%s", self.address.url, PATH, reach)

    def collect(self, collector: Collector) -> None:
        """Serve what `collector` says, too, from now on."""
        self._registry.register(collector)

    def answer_probes(self, health: Callable[[], Health]) -> None:
        """Say from now on what `health` says; before, the process is starting."""
        self._server.health = health

    def close(self) -> None:
        """Stop listening, whoever is still connected. Does nothing the second time."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def free_addresses(first: Address, count: int) -> list[Address]:
    """So many addresses, each at the next port from `first` on where nobody listens now; port 0 is always free.

    Raises ConfigError where the ports end before.
    """
    found: list[Address] = []
    for place in itertools.count():
        if len(found) == count:
            break
        address = first.shifted(place)
        if address.port == 0 or _is_free(address):
            found.append(address)
    return found


def _is_free(address: Address) -> bool:
    family, where = _resolve(address)
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As who will listen there; without it a port counts as taken for minutes after its last connection.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(where)
        except OSError:
            return False
    return True


def _resolve(address: Address) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """Family and place of a socket that listens there. Raises OSError or UnicodeError where there is no such host."""
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, where = found[0]
    return family, (str(where[0]), int(where[1]))


class _Server(ThreadingMixIn, TCPServer):
    """Bound and listening; a thread a connection, none of which outlives the process."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: Address, registry: CollectorRegistry, token: str | None) -> None:
        self.registry = registry
        self.token = token
        self.health: Callable[[], Health] = lambda: STARTING
        self.collecting = threading.Lock()
        """One look at the run at a time."""
        self._begun: dict[Any, tuple[float, str]] = {}
        """Connections that are open: since when, monotonic, and from where."""
        self.address_family, where = _resolve(address)
        super().__init__(where, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        host = str(client_address[0])
        if len(self._begun) >= _MAX_CONNECTIONS or self._is_greedy(host):
            self.shutdown_request(request)
            return
        self._begun[request] = time.monotonic(), host
        super().process_request(request, client_address)

    def _is_greedy(self, host: str) -> bool:
        """Whether another machine has all connections that one may have; a tunnel or a proxy on this one is many."""
        if Address(host, 0).is_loopback:
            return False
        return sum(other == host for _, other in tuple(self._begun.values())) >= _MAX_FROM_ONE_HOST

    def shutdown_request(self, request: Any) -> None:
        self._begun.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Hang up on those that take too long, however little they send at a time."""
        late = time.monotonic() - _PATIENCE_S
        for request, (begun_at, _) in tuple(self._begun.items()):
            if begun_at < late:
                with contextlib.suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client has hung up, or was hung up on; that is no event. What else there is, is a defect."""
        if not isinstance(error := sys.exc_info()[1], OSError):
            _log.warning("a request for metrics could not be answered: %r", error)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "penstock", ""
    timeout = _PATIENCE_S

    def do_GET(self) -> None:
        """The metrics, in the format that the client asks for, or the answer to a probe."""
        path = self.path.partition("?")[0]
        if path in PROBES:
            self._probe(path)
            return
        if path != PATH:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", f"the metrics are at {PATH}\n".encode())
            return
        if self.server.token and not brings(self.headers.get("Authorization", ""), self.server.token):
            text = b"the metrics want their token, as Authorization: Bearer TOKEN\n"
            self._answer(HTTPStatus.UNAUTHORIZED, "text/plain; charset=utf-8", text)
            return
        encode, content_type = choose_encoder(self.headers.get("Accept", ""))
        try:
            with self.server.collecting:
                body = encode(self.server.registry)
        except Exception as error:  # noqa: BLE001 - a thread's edge: no look at a run may end it
            _log.warning("the metrics could not be read: %r", error)
            text = b"the metrics could not be read; the log says why\n"
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", text)
            return
        self._answer(HTTPStatus.OK, content_type, body)

    def _probe(self, path: str) -> None:
        health = self.server.health()
        status = HTTPStatus.OK if PROBES[path](health) else HTTPStatus.SERVICE_UNAVAILABLE
        self._answer(status, "text/plain; charset=utf-8", f"{health.words}\n".encode())

    def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if status == HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the standard library's name
        """Nothing: a scrape is no event."""
