"""Sockets that listen for people and tools: taken before anything is started, so that a taken port costs nothing."""

import os
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
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, place = found[0]
        return socket.create_server((str(place[0]), int(place[1])), family=family)
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None)
        # That of a place which cannot be bound repeats the place; that of an unknown host is no system error.
        why = os.strerror(number) if number and number > 0 else getattr(error, "strerror", None) or error
        raise EndpointError(
            f"{name}: cannot listen at {address.host}, port {address.port}: {why}; choose another address "
            "(port 0 takes a free one)"
        ) from error
