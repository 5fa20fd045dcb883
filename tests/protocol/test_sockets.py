"""The sockets on the real loopback: addresses, a round trip without a copy, waking, and an end that leaves nothing."""

import socket as plain_socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from penstock.protocol.errors import EndpointError
from penstock.protocol.sockets import ProducerSockets, RankSocket, check_endpoint, next_endpoint

WAIT_S = 10.0


@pytest.fixture
def rank() -> Iterator[RankSocket]:
    socket = RankSocket("tcp://127.0.0.1:0")
    yield socket
    socket.close()


@pytest.fixture
def producer() -> Iterator[ProducerSockets]:
    with ProducerSockets() as sockets:
        yield sockets


def _send(producer: ProducerSockets, peer: bytes, header: bytes, payload: bytes | None = None) -> None:
    """Send once the connection stands."""
    deadline = time.monotonic() + WAIT_S
    while not producer.send(peer, header, payload):
        assert time.monotonic() < deadline, "no connection"
        list(producer.recv(timeout_ms=5))


def _hear(rank: RankSocket) -> tuple[bytes, list[memoryview]]:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        if (received := rank.recv(timeout_ms=1000)) is not None:
            return received
    raise AssertionError("nothing came")


def _listen(producer: ProducerSockets) -> tuple[bytes, list[memoryview]]:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        for received in producer.recv(timeout_ms=1000):
            return received
    raise AssertionError("nothing came")


# --- addresses ---------------------------------------------------------------------------------------


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
    assert check_endpoint(endpoint, insecure=False) == endpoint


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
        check_endpoint(endpoint, insecure=False)
    assert check_endpoint(endpoint, insecure=True) == endpoint


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
        check_endpoint(endpoint, insecure=insecure)
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
        check_endpoint(endpoint, insecure=insecure)


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


# --- messages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 5_000_000])
def test_header_and_payload_arrive_whole_and_an_answer_goes_back(
    size: int, rank: RankSocket, producer: ProducerSockets
) -> None:
    payload = bytes(range(256)) * (size // 256) + bytes(size % 256)
    producer.connect(rank.endpoint)
    _send(producer, rank.endpoint.encode(), b"header", payload)
    identity, frames = _hear(rank)
    assert [bytes(frame) for frame in frames] == [b"header", payload]
    assert rank.send(identity, b"answer")
    peer, frames = _listen(producer)
    assert peer == rank.endpoint.encode()
    assert [bytes(frame) for frame in frames] == [b"answer"]


def test_large_payloads_arrive_intact_in_order(rank: RankSocket, producer: ProducerSockets) -> None:
    producer.connect(rank.endpoint)
    payloads = [bytes([number]) * 1_000_000 for number in range(20)]
    for number, payload in enumerate(payloads):
        _send(producer, rank.endpoint.encode(), b"%d" % number, payload)
    for number, payload in enumerate(payloads):
        _, frames = _hear(rank)
        assert bytes(frames[0]) == b"%d" % number
        assert bytes(frames[1]) == payload


def test_a_received_payload_is_a_view_that_outlives_later_messages(rank: RankSocket, producer: ProducerSockets) -> None:
    producer.connect(rank.endpoint)
    _send(producer, rank.endpoint.encode(), b"0", b"a" * 200_000)
    _, frames = _hear(rank)
    kept = frames[1]
    for _ in range(5):
        _send(producer, rank.endpoint.encode(), b"1", b"b" * 200_000)
        _hear(rank)
    assert kept == b"a" * 200_000


def test_two_ranks_hear_only_what_is_meant_for_them(producer: ProducerSockets) -> None:
    ranks = [RankSocket("tcp://127.0.0.1:0") for _ in range(2)]
    try:
        for rank in ranks:
            producer.connect(rank.endpoint)
        for number in range(20):
            _send(producer, ranks[number % 2].endpoint.encode(), b"%d" % number)
        for parity, rank in enumerate(ranks):
            heard = [int(bytes(_hear(rank)[1][0])) for _ in range(10)]
            assert heard == list(range(parity, 20, 2))
    finally:
        for rank in ranks:
            rank.close()


def test_a_send_to_a_peer_that_is_not_there_says_so(rank: RankSocket) -> None:
    assert rank.send(b"nobody", b"header") is False


def test_a_send_without_a_connection_says_so_at_once(producer: ProducerSockets) -> None:
    with plain_socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    endpoint = f"tcp://127.0.0.1:{port}"
    producer.connect(endpoint)
    start = time.monotonic()
    assert producer.send(endpoint.encode(), b"header", b"x" * 100_000) is False
    assert time.monotonic() - start < 2


def test_http_to_the_port_harms_nobody(rank: RankSocket, producer: ProducerSockets) -> None:
    host, _, port = rank.endpoint.removeprefix("tcp://").rpartition(":")
    with plain_socket.create_connection((host, int(port)), timeout=WAIT_S) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n" * 10)
        producer.connect(rank.endpoint)
        _send(producer, rank.endpoint.encode(), b"header")
        assert bytes(_hear(rank)[1][0]) == b"header"


# --- waking and ending -------------------------------------------------------------------------------


def test_a_wake_from_another_thread_ends_the_wait(rank: RankSocket, producer: ProducerSockets) -> None:
    for wake, wait in (
        (rank.waker.wake, lambda: rank.recv(timeout_ms=30_000)),
        (producer.waker.wake, lambda: list(producer.recv(timeout_ms=30_000))),
    ):
        thread = threading.Thread(target=wake)
        start = time.monotonic()
        thread.start()
        assert not wait()
        thread.join()
        assert time.monotonic() - start < WAIT_S


def test_many_wakes_never_block_and_are_forgotten_together(rank: RankSocket) -> None:
    for _ in range(10_000):
        rank.waker.wake()
    deadline = time.monotonic() + WAIT_S
    while rank.waker.socket.poll(10):
        assert time.monotonic() < deadline
        rank.recv(timeout_ms=10)
    start = time.monotonic()
    assert rank.recv(timeout_ms=50) is None
    assert time.monotonic() - start > 0.02


def test_wake_after_close_does_nothing(producer: ProducerSockets) -> None:
    socket = RankSocket("tcp://127.0.0.1:0")
    socket.close()
    socket.waker.wake()


def test_closing_twice_is_allowed() -> None:
    socket = RankSocket("tcp://127.0.0.1:0")
    socket.close()
    socket.close()
    sockets = ProducerSockets()
    sockets.close()
    sockets.close()


def test_a_port_is_free_again_after_close() -> None:
    first = RankSocket("tcp://127.0.0.1:0")
    endpoint = first.endpoint
    first.close()
    second = RankSocket(endpoint)
    second.close()


def test_close_is_bounded_though_messages_wait_for_a_peer_that_does_not_read() -> None:
    rank = RankSocket("tcp://127.0.0.1:0")
    producer = ProducerSockets()
    producer.connect(rank.endpoint)
    for _ in range(50):
        _send(producer, rank.endpoint.encode(), b"header", b"x" * 1_000_000)
    start = time.monotonic()
    producer.close()
    rank.close()
    assert time.monotonic() - start < 5


def test_a_producers_last_word_arrives_though_its_socket_closes_right_after(rank: RankSocket) -> None:
    producer = ProducerSockets()
    producer.connect(rank.endpoint)
    _send(producer, rank.endpoint.encode(), b"bye")
    producer.close()
    assert bytes(_hear(rank)[1][0]) == b"bye"


def test_nothing_is_left_of_an_ipc_address(tmp_path: Path) -> None:
    path = tmp_path / "run.sock"
    rank = RankSocket(f"ipc://{path}")
    with ProducerSockets() as producer:
        producer.connect(rank.endpoint)
        _send(producer, rank.endpoint.encode(), b"hello", b"x" * 100_000)
        assert bytes(_hear(rank)[1][1]) == b"x" * 100_000
    rank.close()
    assert list(tmp_path.iterdir()) == []


def test_an_ipc_address_without_its_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EndpointError, match="cannot bind"):
        RankSocket(f"ipc://{tmp_path}/missing/run.sock")


def test_a_plain_dealer_of_pyzmq_can_talk_to_a_rank(rank: RankSocket) -> None:
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    try:
        dealer.connect(rank.endpoint)
        dealer.send_multipart([b"a", b"b", b"c"])
        assert [bytes(frame) for frame in _hear(rank)[1]] == [b"a", b"b", b"c"]
    finally:
        dealer.close()
        context.term()
