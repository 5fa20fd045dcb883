"""Sockets for people: taken at once, and what cannot be is one line."""

import os
import socket
from errno import EADDRINUSE

import pytest

from penstock.config.address import Address
from penstock.config.listening import listen
from penstock.protocol.errors import EndpointError


def test_port_0_takes_a_free_one_that_can_be_connected_to() -> None:
    with listen(Address("127.0.0.1", 0), "dashboard") as listener:
        place = listener.getsockname()
        assert place[0] == "127.0.0.1"
        socket.create_connection(place, timeout=5).close()


def test_a_taken_port_is_one_line_that_names_setting_and_place() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EndpointError) as error:
            listen(Address("127.0.0.1", port), "dashboard")
    assert str(error.value) == (
        f"dashboard: cannot listen at 127.0.0.1, port {port}: {os.strerror(EADDRINUSE)}; choose another address "
        "(port 0 takes a free one)"
    )


def test_the_port_of_a_server_that_has_just_ended_is_free_again() -> None:
    with listen(Address("127.0.0.1", 0), "dashboard") as listener:
        place = listener.getsockname()
        client = socket.create_connection(place, timeout=5)
        answered, _ = listener.accept()
        answered.close()  # this side closes first, and so keeps the port in TIME_WAIT
        client.close()
    listen(Address("127.0.0.1", place[1]), "dashboard").close()


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 70])
def test_a_host_that_is_none_is_one_line(host: str) -> None:
    with pytest.raises(EndpointError, match=rf"^dashboard: cannot listen at {host}, port 0: .+; choose"):
        listen(Address(host, 0), "dashboard")
