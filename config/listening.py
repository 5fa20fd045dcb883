"""Sockets that listen for people and tools: taken before anything is started, so that a taken port costs nothing."""

import errno
import socket

from penstock.config.address import Address
from penstock.protocol.errors import EndpointError


def listen(address: Address, name: str) -> socket.socket:
    """A TCP socket that listens at `address`; whoever connects waits until it is answered.

    Args:
        address: port 0 takes a free one.
        name: of the setting that says where, for the error.

    Raises EndpointError where the host is unknown, or the port is taken or not allowed.
    """
    try:
        family, *_, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(place[:2], family=family)
    except OSError as error:
        what = f"{name} {address.host}:{address.port}"
        if error.errno == errno.EADDRINUSE:
            raise EndpointError(
                f"{what} is in use by another program; choose another port (port 0 takes a free one)"
            ) from error
        raise EndpointError(f"cannot listen at {what}: {error.strerror or error}; choose another address") from error
