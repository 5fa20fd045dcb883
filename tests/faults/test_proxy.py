"""The proxy does to a connection what its fields say."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.faults.proxy import Proxy

BOUND_S = 10.0


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends back what it gets."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.05)
    closed = threading.Event()

    def serve(client: socket.socket) -> None:
        with client:
            try:
                while data := client.recv(1 << 16):
                    client.sendall(data)
            except OSError:
                return

    def accept() -> None:
        while not closed.is_set():
            try:
                client, _ = listener.accept()
            except TimeoutError:
                continue
            client.settimeout(BOUND_S)
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    thread = threading.Thread(target=accept)
    thread.start()
    yield listener.getsockname()[1]
    closed.set()
    thread.join()
    listener.close()


@pytest.fixture
def proxy(echo: int) -> Iterator[Proxy]:
    made = Proxy(echo)
    yield made
    made.close()


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=BOUND_S) as made:
        yield made


def read(client: socket.socket, num_bytes: int) -> bytes:
    data = b""
    while len(data) < num_bytes and (more := client.recv(num_bytes - len(data))):
        data += more
    return data


def silent(client: socket.socket, for_s: float) -> bool:
    """Whether nothing comes."""
    client.settimeout(for_s)
    try:
        return not client.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return True
    finally:
        client.settimeout(BOUND_S)


def test_bytes_pass_whole_and_in_order(client: socket.socket) -> None:
    sent = bytes(range(256)) * 2000
    client.sendall(sent)
    assert read(client, len(sent)) == sent


def test_delay_holds_bytes_back_and_loses_none(proxy: Proxy, client: socket.socket) -> None:
    proxy.up.delay_s = 0.2
    start = time.monotonic()
    client.sendall(b"late")
    assert read(client, 4) == b"late"
    assert time.monotonic() - start >= 0.2


def test_a_narrow_pipe_takes_its_time(proxy: Proxy, client: socket.socket) -> None:
    proxy.up.bytes_per_s = 1_000_000
    start = time.monotonic()
    client.sendall(b"x" * 300_000)
    assert len(read(client, 300_000)) == 300_000
    assert time.monotonic() - start >= 0.25


def test_a_partition_loses_nothing_and_heals(proxy: Proxy, client: socket.socket) -> None:
    proxy.partition()
    client.sendall(b"waiting")
    assert silent(client, 0.2)
    proxy.heal()
    assert read(client, 7) == b"waiting"


def test_what_a_half_open_link_swallows_is_lost(proxy: Proxy, client: socket.socket) -> None:
    proxy.up.swallowed = True
    client.sendall(b"lost")
    assert silent(client, 0.2)
    proxy.heal()
    client.sendall(b"here")
    assert read(client, 4) == b"here"


def test_a_cut_passes_exactly_so_many_bytes(proxy: Proxy, client: socket.socket) -> None:
    proxy.up.cut_after_bytes = 5
    client.sendall(b"0123456789")
    assert read(client, 5) == b"01234"
    assert silent(client, 0.2)
    assert proxy.up.num_bytes == 5


def test_a_cut_connection_ends_with_its_sender(proxy: Proxy, client: socket.socket) -> None:
    proxy.up.cut_after_bytes = 5
    client.sendall(b"0123456789")
    assert read(client, 5) == b"01234"
    client.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""


def test_a_reset_is_heard_as_one(proxy: Proxy, client: socket.socket) -> None:
    client.sendall(b"here")
    assert read(client, 4) == b"here"
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_where_nobody_listens_a_connection_ends_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    proxy = Proxy(port)
    try:
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=BOUND_S) as client:
            assert client.recv(1) == b""
    finally:
        proxy.close()
