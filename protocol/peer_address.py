"""The connection behind a descriptor that ZeroMQ owns: where it comes from, and how to end it.

ZeroMQ gives no way to hang up on one peer of a ROUTER, but says which descriptor a message came from. Descriptors are
used again, so a connection is known by its two ends as well, and only ended where they are still the same.
"""

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_CREDENTIALS = struct.Struct("3i")
"""Linux's `struct ucred`: process, user, group."""
_INFO = struct.Struct("128xQ")
"""Linux's `struct tcp_info` up to `tcpi_bytes_received`."""


@dataclass(frozen=True, slots=True)
class Ends:
    """Both ends of a connection."""

    peer: object
    here: object
    shown: str
    """The peer's, for people: its address, or its process."""


def ends_of(descriptor: int) -> Ends | None:
    """The ends of the connection behind a descriptor; None where there is none any more."""
    with _borrowed(descriptor) as connection:
        return None if connection is None else _ends(connection)


def hang_up(descriptor: int, ends: Ends) -> None:
    """End the connection behind a descriptor, if it is still the one between these ends; its owner will notice."""
    with _borrowed(descriptor) as connection:
        if connection is None or _ends(connection) != ends:
            return
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it has just ended by itself


def num_received_bytes(descriptor: int) -> int:
    """Bytes that have come on a TCP connection; 0 where the system does not say."""
    with _borrowed(descriptor) as connection:
        if connection is None or connection.family == socket.AF_UNIX or not hasattr(socket, "TCP_INFO"):
            return 0
        try:
            told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
        except OSError:
            return 0
    return int(_INFO.unpack(told)[0]) if len(told) == _INFO.size else 0


def _ends(connection: socket.socket) -> Ends | None:
    try:
        peer, here = connection.getpeername(), connection.getsockname()
        if connection.family != socket.AF_UNIX:
            return Ends(peer, here, shown_address(str(peer[0])))
        told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return None
    process, user, _ = _CREDENTIALS.unpack(told)
    return Ends(told, here, _shown_process(process, user))


def shown_address(address: str, *, is_ipc: bool = False) -> str:
    """For people, what ZeroMQ says of where a peer is: of one behind an ipc path `HOST:USER:GROUP:PROCESS`."""
    if not is_ipc:
        return address.removeprefix("::ffff:")
    _, user, _, process = address.rsplit(":", 3)
    return _shown_process(int(process), int(user))


def _shown_process(process: int, user: int) -> str:
    return f"process {process} of user {user}"


@contextmanager
def _borrowed(descriptor: int) -> "Iterator[socket.socket | None]":
    """A socket object around a descriptor that stays its owner's."""
    try:
        copy = os.dup(descriptor)
    except OSError:
        yield None
        return
    try:
        connection = socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        yield None
        return
    try:
        yield connection
    finally:
        connection.close()
