"""A TCP proxy that does to a connection what networks do: delay, a narrow pipe, silence, a cut, a reset.

One thread for each direction of each connection; every wait is short, so that a change is obeyed within a tick.
"""

import socket
import struct
import threading
import time
from dataclasses import dataclass

_TICK_S = 0.01
_CHUNK_BYTES = 1 << 16


@dataclass(slots=True)
class Direction:
    """What happens to bytes that go one way. May be changed at any time."""

    delay_s: float = 0.0
    """How much later each byte arrives."""
    bytes_per_s: float = float("inf")
    """The pipe's width."""
    blocked: bool = False
    """No byte passes and nothing is lost: a partition. The sender's system soon accepts no more."""
    swallowed: bool = False
    """Every byte is accepted and lost, as behind a half-open connection."""
    cut_after_bytes: int | None = None
    """So many more bytes pass, then no more: whoever is killed then is killed in the middle of a message."""
    num_bytes: int = 0
    """Bytes that have passed."""


class Proxy:
    """Forwards `endpoint` to a port on this machine.

    Args:
        target_port: where connections are forwarded to. Nobody needs to listen there yet.
        chunk_bytes: moved at a time; a narrow pipe lets as many through at once, then none for as long as they take.
    """

    def __init__(self, target_port: int, chunk_bytes: int = _CHUNK_BYTES) -> None:
        self._chunk_bytes = chunk_bytes
        self.up = Direction()
        """From who dialled (the producer) to who listens (the rank)."""
        self.down = Direction()
        self._target_port = target_port
        self._resets = 0
        """Connections made before the last of them are to end."""
        self._threads: list[threading.Thread] = []
        self._closed = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(_TICK_S)
        self.port: int = self._listener.getsockname()[1]
        self.endpoint = f"tcp://127.0.0.1:{self.port}"
        self._start(self._accept)

    def partition(self) -> None:
        """No byte passes either way, and nobody is told."""
        self.up.blocked = self.down.blocked = True

    def heal(self) -> None:
        """Bytes pass again, those that were held back first. What was cut or swallowed stays lost."""
        for direction in (self.up, self.down):
            direction.blocked = direction.swallowed = False
            direction.cut_after_bytes = None

    def reset(self) -> None:
        """End every connection by RST, as a firewall that forgot it would."""
        self._resets += 1

    def close(self) -> None:
        """End every connection and every thread."""
        self._closed.set()
        for thread in self._threads:
            thread.join(timeout=5)
        self._listener.close()

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, name="proxy", daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target_port), timeout=1)
            except OSError:
                client.close()
                continue
            for end in (client, server):
                end.settimeout(_TICK_S)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._start(self._pump, client, server, self.up)
            self._start(self._pump, server, client, self.down)

    def _pump(self, source: socket.socket, sink: socket.socket, direction: Direction) -> None:
        """Move bytes until an end closes; then close the other."""
        held: list[tuple[float, bytes]] = []
        born, open_ = self._resets, True
        try:
            while not self._closed.is_set() and (open_ or (held and direction.cut_after_bytes is None)):
                if self._resets > born:
                    # Lingering for no time makes `close` an RST.
                    for end in (source, sink):
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                if open_ and not direction.blocked and len(held) < 64:
                    open_ = self._take(source, held, direction)
                else:
                    time.sleep(_TICK_S)
                self._give(sink, held, direction)
        except OSError:
            pass  # one end was closed or reset; so is the other, below
        finally:
            for end in (source, sink):
                end.close()

    def _take(self, source: socket.socket, held: list[tuple[float, bytes]], direction: Direction) -> bool:
        """Read what has come; False where the source has ended."""
        try:
            data = source.recv(self._chunk_bytes)
        except TimeoutError:
            return True
        if data and not direction.swallowed:
            held.append((time.monotonic() + direction.delay_s, data))
        return bool(data)

    def _give(self, sink: socket.socket, held: list[tuple[float, bytes]], direction: Direction) -> None:
        """Pass on what is due, as far as the direction lets it."""
        while held and not direction.blocked and held[0][0] <= time.monotonic():
            due, data = held.pop(0)
            limit = direction.cut_after_bytes
            if limit is not None:
                now, later = data[:limit], data[limit:]
                direction.cut_after_bytes = limit - len(now)
                if later:
                    held.insert(0, (due, later))
            else:
                now = data
            if not now:
                return
            self._send(sink, now)
            direction.num_bytes += len(now)
            if direction.bytes_per_s < float("inf"):
                time.sleep(len(now) / direction.bytes_per_s)

    def _send(self, sink: socket.socket, data: bytes) -> None:
        view = memoryview(data)
        while view and not self._closed.is_set():
            try:
                view = view[sink.send(view) :]
            except TimeoutError:
                continue
