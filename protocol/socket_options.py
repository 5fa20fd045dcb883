"""How every socket between machines is set."""

from typing import Final

import zmq

LINGER_MS: Final = 1000
"""How long a closing socket may still deliver, so that a BYE arrives and a shutdown stays bounded."""
HANDSHAKE_MS: Final = 2000
"""How long a handshake may take."""
_HIGH_WATER_MESSAGES: Final = 1024
"""Messages queued per peer and direction. Credits, counted in bytes, bound memory long before this does."""
_BACKLOG: Final = 1024
"""Connections that wait to be accepted: a fleet comes back all at once when its trainer does."""


def configure(zmq_socket: "zmq.Socket[bytes]", endpoint: str, max_frame_bytes: int) -> None:
    """Set a socket that is not bound or connected yet; a larger frame than this ends its sender's connection."""
    zmq_socket.setsockopt(zmq.LINGER, LINGER_MS)
    zmq_socket.setsockopt(zmq.SNDHWM, _HIGH_WATER_MESSAGES)
    zmq_socket.setsockopt(zmq.RCVHWM, _HIGH_WATER_MESSAGES)
    zmq_socket.setsockopt(zmq.BACKLOG, _BACKLOG)
    zmq_socket.setsockopt(zmq.MAXMSGSIZE, max_frame_bytes)
    zmq_socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    zmq_socket.setsockopt(zmq.HEARTBEAT_IVL, 2000)
    zmq_socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 10_000)
    # Only where asked for: with it an IPv4 address is reported as [::ffff:127.0.0.1].
    zmq_socket.setsockopt(zmq.IPV6, int("[" in endpoint))
