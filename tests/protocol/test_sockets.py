"""The sockets on the real loopback: a round trip without a copy, waking, and an end that leaves nothing."""

import socket as plain_socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from penstock.protocol.errors import EndpointError
from penstock.protocol.limits import MAX_HEADER_BYTES
from penstock.protocol.sockets import ProducerSockets, RankSocket, Sent

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
        rank.wait(timeout_ms=1000)
        for received in rank.received():
            return received
    raise AssertionError("nothing came")


def _listen(producer: ProducerSockets) -> tuple[bytes, list[memoryview]]:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        for received in producer.recv(timeout_ms=1000):
            return received
    raise AssertionError("nothing came")


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
    assert rank.send(identity, b"answer") is Sent.QUEUED
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
    assert rank.send(b"nobody", b"header") is Sent.UNREACHABLE


def test_a_peer_whose_connection_ended_cannot_be_reached_and_comes_back_by_another_name(rank: RankSocket) -> None:
    with ProducerSockets() as first:
        first.connect(rank.endpoint)
        _send(first, rank.endpoint.encode(), b"header")
        gone, _ = _hear(rank)
        assert rank.send(gone, b"answer") is Sent.QUEUED
    deadline = time.monotonic() + WAIT_S
    while rank.send(gone, b"answer") is not Sent.UNREACHABLE:
        assert time.monotonic() < deadline
        rank.wait(timeout_ms=10)
    with ProducerSockets() as second:
        second.connect(rank.endpoint)
        _send(second, rank.endpoint.encode(), b"header")
        assert _hear(rank)[0] != gone


def test_a_peer_that_does_not_read_fills_its_queue_and_blocks_nobody(rank: RankSocket) -> None:
    with ProducerSockets() as producer:
        producer.connect(rank.endpoint)
        _send(producer, rank.endpoint.encode(), b"header")
        identity, _ = _hear(rank)
        deadline = time.monotonic() + WAIT_S
        while rank.send(identity, b"x" * 100_000) is Sent.QUEUED:
            assert time.monotonic() < deadline
        assert rank.send(identity, b"x" * 100_000) is Sent.FULL


def test_a_frame_larger_than_any_group_of_the_run_ends_its_senders_connection() -> None:
    rank = RankSocket("tcp://127.0.0.1:0", group_bytes=2 * MAX_HEADER_BYTES)
    try:
        with ProducerSockets() as good, ProducerSockets() as bad:
            good.connect(rank.endpoint)
            _send(good, rank.endpoint.encode(), b"header", b"x" * 2 * MAX_HEADER_BYTES)
            assert len(_hear(rank)[1][1]) == 2 * MAX_HEADER_BYTES
            bad.connect(rank.endpoint)
            _send(bad, rank.endpoint.encode(), b"header")
            identity, _ = _hear(rank)
            _send(bad, rank.endpoint.encode(), b"header", b"x" * (2 * MAX_HEADER_BYTES + 1))
            deadline = time.monotonic() + WAIT_S
            while rank.send(identity, b"answer") is not Sent.UNREACHABLE:
                assert time.monotonic() < deadline
                rank.wait(timeout_ms=10)
                assert not list(rank.received()), "what is too large is not heard"
    finally:
        rank.close()


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
        (rank.waker.wake, lambda: rank.wait(timeout_ms=30_000)),
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
        rank.wait(timeout_ms=10)
    start = time.monotonic()
    rank.wait(timeout_ms=50)
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


def test_an_address_of_another_machine_is_one_line_that_says_what_to_give() -> None:
    with pytest.raises(EndpointError) as caught:
        RankSocket("tcp://192.0.2.77:5599", insecure=True)  # nobody's (RFC 5737)
    assert str(caught.value).startswith("cannot bind tcp://192.0.2.77:5599: this machine has no such address; give")
    assert all(flag in str(caught.value) for flag in ("--stream.endpoint", "--stream.advertise"))


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
