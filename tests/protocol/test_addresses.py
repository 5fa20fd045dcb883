"""Addresses: which are allowed, how each rank gets its own, and what is said where one cannot be bound or dialled."""

import socket as plain_socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.protocol.addresses import check_endpoint, next_endpoint
from penstock.protocol.errors import EndpointError
from penstock.protocol.sockets import ProducerSockets, RankSocket


@pytest.fixture
def rank() -> Iterator[RankSocket]:
    socket = RankSocket("tcp://127.0.0.1:0")
    yield socket
    socket.close()


@pytest.fixture
def producer() -> Iterator[ProducerSockets]:
    with ProducerSockets() as sockets:
        yield sockets


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://127.0.0.1:5599",
        "tcp://127.0.0.1:0",
        "tcp://127.8.9.1:5599",
        "tcp://localhost:5599",
        "tcp://[::1]:5599",
        "ipc:///tmp/run.sock",
    ],
)
def test_an_address_on_this_machine_is_allowed(endpoint: str) -> None:
    assert check_endpoint(endpoint, may_leave=False) == endpoint


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://192.168.1.2:5599",
        "tcp://[2001:db8::1]:5599",
        "tcp://eth0:5599",
        "tcp://example.org:5599",
    ],
)
def test_an_address_that_others_reach_needs_insecure(endpoint: str) -> None:
    with pytest.raises(EndpointError, match=r"no keys.*127\.0\.0\.1.*insecure"):
        check_endpoint(endpoint, may_leave=False)
    assert check_endpoint(endpoint, may_leave=True) == endpoint


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "5599",
        "127.0.0.1:5599",
        "tcp://127.0.0.1",
        "tcp://:5599",
        "tcp://127.0.0.1:",
        "tcp://127.0.0.1:x",
        "tcp://127.0.0.1:70000",
        "tcp://127.0.0.1:-1",
        "tcp://127.0.0.1:٣",
        "http://127.0.0.1:5599",
        "udp://127.0.0.1:5599",
        "ipc://",
        "inproc://a",
    ],
)
@pytest.mark.parametrize("insecure", [False, True])
def test_a_malformed_address_is_refused_with_the_form_of_a_good_one(endpoint: str, insecure: bool) -> None:
    with pytest.raises(EndpointError, match="tcp://HOST:PORT") as caught:
        check_endpoint(endpoint, may_leave=insecure)
    assert repr(endpoint) in str(caught.value)


@pytest.mark.parametrize(
    ("endpoint", "rank", "expected"),
    [
        ("tcp://127.0.0.1:5599", 0, "tcp://127.0.0.1:5599"),
        ("tcp://127.0.0.1:5599", 3, "tcp://127.0.0.1:5602"),
        ("tcp://[::1]:5599", 1, "tcp://[::1]:5600"),
        ("tcp://127.0.0.1:0", 2, "tcp://127.0.0.1:0"),
        ("ipc:///tmp/run", 0, "ipc:///tmp/run"),
        ("ipc:///tmp/run", 2, "ipc:///tmp/run.2"),
    ],
)
def test_each_rank_has_an_address_of_its_own(endpoint: str, rank: int, expected: str) -> None:
    assert next_endpoint(endpoint, rank) == expected


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1", "nonsense", "http://127.0.0.1:80", ""])
def test_a_malformed_address_raises_one_line_where_it_is_used(endpoint: str, producer: ProducerSockets) -> None:
    with pytest.raises(EndpointError):
        RankSocket(endpoint)
    with pytest.raises(EndpointError, match="tcp://HOST:PORT") as caught:
        producer.connect(endpoint)
    assert "\n" not in str(caught.value)


def test_port_zero_takes_a_free_port_and_says_which(rank: RankSocket) -> None:
    host, _, port = rank.endpoint.rpartition(":")
    assert host == "tcp://127.0.0.1"
    assert int(port) > 0


def test_a_taken_port_is_named_with_what_to_do(rank: RankSocket) -> None:
    with pytest.raises(EndpointError, match=rf"{rank.endpoint} is in use .*--stream\.endpoint"):
        RankSocket(rank.endpoint)


def test_a_port_taken_by_any_other_program_is_named_too() -> None:
    with plain_socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EndpointError, match="in use"):
            RankSocket(f"tcp://127.0.0.1:{port}")


def test_an_address_beyond_loopback_is_not_bound() -> None:
    with pytest.raises(EndpointError, match="insecure"):
        RankSocket("tcp://192.0.2.1:0")


@pytest.mark.parametrize("endpoint", ["tcp://0.0.0.0:5599", "tcp://*:5599", "tcp://[::]:5599"])
@pytest.mark.parametrize("insecure", [False, True])
def test_every_address_at_once_is_none_that_producers_can_dial(endpoint: str, insecure: bool) -> None:
    with pytest.raises(EndpointError, match="name it"):
        check_endpoint(endpoint, may_leave=insecure)


def test_an_ipc_address_in_use_is_named_and_one_left_behind_is_taken(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/run.sock"
    first = RankSocket(endpoint)
    with pytest.raises(EndpointError, match="in use"):
        RankSocket(endpoint)
    first.close()
    with plain_socket.socket(plain_socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "run.sock"))
    RankSocket(endpoint).close()


def test_a_file_in_the_place_of_an_ipc_address_is_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(EndpointError, match="is a file"):
        RankSocket(f"ipc://{tmp_path}/thesis.tex")
    assert (tmp_path / "thesis.tex").read_text() == "precious"
