"""A rank's gate: strangers of every sort are named, cost no place and no memory, and leave no descriptor behind."""

import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from penstock.protocol.errors import RunError
from penstock.protocol.gate import Gate, _Connection
from penstock.protocol.peer_address import ends_of, hang_up, num_received_bytes
from penstock.protocol.refusals import Refusals
from penstock.protocol.sockets import ProducerSockets, RankSocket
from tests.protocol.door import WAIT_S, Door
from tests.protocol.key_ring import KeyRing

ROOT = Path(__file__).resolve().parents[2]
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"CURVE".ljust(20, b"\0") + bytes(32)
"""Of ZMTP 3.1 (RFC 23): signature, version, mechanism, as-server, filler."""


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    return KeyRing(tmp_path)


@pytest.fixture
def rank(ring: KeyRing) -> Iterator[RankSocket]:
    made = RankSocket("tcp://127.0.0.1:0", keys=ring.trainer, max_connections=8)
    yield made
    made.close()


def _dial(rank: RankSocket, first: bytes = b"") -> socket.socket:
    host, port = rank.endpoint.removeprefix("tcp://").split(":")
    dialled = socket.create_connection((host, int(port)), timeout=WAIT_S)
    dialled.sendall(first)
    return dialled


def _num_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize(
    ("first", "word", "line"),
    [
        (b"GET / HTTP/1.1\r\nHost: rank\r\n\r\n", "no_zeromq", "it speaks no ZeroMQ"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "no_zeromq", "it speaks no ZeroMQ"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no_zeromq", "it speaks no ZeroMQ"),
        (b"", "slow_handshake", "did not finish the handshake within 2 s"),
        (GREETING[:30], "slow_handshake", "did not finish the handshake within 2 s"),
        (GREETING, "slow_handshake", "did not finish the handshake within 2 s"),
        (GREETING + b"\x04\x06\x05HELLO", "handshake", "breaks the rules of ZeroMQ"),
        (GREETING.replace(b"CURVE", b"NULL\0"), "no_key", "give the producer --key FILE"),
        (GREETING.replace(b"CURVE", b"PLAIN"), "no_key", "give the producer --key FILE"),
    ],
    ids=["HTTP", "TLS", "SSH", "silent", "half a greeting", "greeting", "short HELLO", "plain", "password"],
)
def test_whoever_is_no_producer_is_named_with_the_reason(rank: RankSocket, first: bytes, word: str, line: str) -> None:
    door = Door(rank)
    with _dial(rank, first):
        door.until(lambda: bool(door.words))
    assert dict(door.words) == {word: 1}
    # ZeroMQ ends some of them before anybody can ask where they came from.
    assert re.match(r"refused (127\.0\.0\.1|somebody who has gone again): ", door.lines[0])
    assert line in door.lines[0]


def test_whoever_hangs_up_is_named_without_a_false_accusation(rank: RankSocket) -> None:
    door = Door(rank)
    _dial(rank).close()
    door.until(lambda: bool(door.words))
    assert "only looked whether somebody listens" in door.lines[0]


def test_those_at_work_keep_their_places_when_strangers_fill_the_rest(ring: KeyRing, rank: RankSocket) -> None:
    """8 places: 2 producers that have spoken, then 30 who say nothing, and a third producer."""
    door, before = Door(rank), _num_descriptors()
    producers = [ProducerSockets(ring.add(name)) for name in ("ann", "bob", "cat")]
    peer = rank.endpoint.encode()
    for each in producers[:2]:
        each.connect(rank.endpoint)
        door.until(lambda each=each: each.send(peer, b"hello"))  # type: ignore[misc]
    door.until(lambda: len(door.heard) == 2)
    dialled = [_dial(rank) for _ in range(30)]
    door.until(lambda: door.words["crowd"] >= 24)
    assert "more connections than max_connections (8)" in door.lines[0]
    producers[2].connect(rank.endpoint)
    door.until(lambda: producers[2].send(peer, b"hello"))
    door.until(lambda: len(door.heard) == 3)
    for each in producers[:2]:
        assert each.send(peer, b"still here")
    door.until(lambda: sum(door.heard.values()) == 5)
    for each in [*dialled, *producers]:
        each.close()
    door.until(lambda: _num_descriptors() <= before)


def test_more_producers_than_places_are_too_many(ring: KeyRing, rank: RankSocket) -> None:
    door, peer = Door(rank), rank.endpoint.encode()
    producers = [ProducerSockets(ring.add(f"p{number}")) for number in range(9)]
    for number, each in enumerate(producers[:8]):
        each.connect(rank.endpoint)
        door.until(lambda each=each: each.send(peer, b"hello"))  # type: ignore[misc]
        door.until(lambda number=number: len(door.heard) == number + 1)  # type: ignore[misc]
    producers[8].connect(rank.endpoint)
    door.until(lambda: door.words["crowd"] > 0)
    assert len(door.heard) == 8
    for each in producers[:8]:
        assert each.send(peer, b"still here")
    door.until(lambda: sum(door.heard.values()) == 16)
    for each in producers:
        each.close()


def test_a_stranger_who_pours_is_cut_off_before_it_takes_memory(ring: KeyRing) -> None:
    """Before a handshake is done, ZeroMQ would take a frame as large as a group, from everybody who dials."""
    rank = RankSocket("tcp://127.0.0.1:0", keys=ring.trainer, group_bytes=1 << 30)
    door, poured = Door(rank), 0
    try:
        with _dial(rank, GREETING + b"\x06" + (1 << 29).to_bytes(8, "big")) as dialled:
            dialled.setblocking(False)
            deadline = time.monotonic() + WAIT_S
            while True:
                assert time.monotonic() < deadline
                door.turn()
                try:
                    poured += dialled.send(bytes(1 << 18))
                except BlockingIOError:
                    continue
                except OSError:
                    break
        door.until(lambda: door.words["flood"] == 1)
        assert poured < 1 << 28
    finally:
        rank.close()


def test_a_flood_of_wrong_keys_is_one_line_and_harms_nobody(ring: KeyRing) -> None:
    rank, stranger = RankSocket("tcp://127.0.0.1:0", keys=ring.trainer), ring.stranger()
    door, peer = Door(rank), rank.endpoint.encode()
    good = ProducerSockets(ring.add("ann"))
    good.connect(rank.endpoint)
    door.until(lambda: good.send(peer, b"hello"))
    with zmq.Context() as context:
        dealers = []
        for _ in range(60):
            dealer = context.socket(zmq.DEALER)
            dealer.setsockopt(zmq.LINGER, 0)
            dealer.curve_serverkey = stranger.trainer.encode()
            dealer.curve_publickey = stranger.pair.public.encode()
            dealer.curve_secretkey = stranger.pair.secret.encode()
            dealer.connect(rank.endpoint)
            dealers.append(dealer)
        door.until(lambda: door.words["unknown_key"] == 60)
        assert good.send(peer, b"still here")
        door.until(lambda: sum(door.heard.values()) == 2)
        for dealer in dealers:
            dealer.close()
    assert (dict(door.words), len(door.lines)) == ({"unknown_key": 60}, 1)
    good.close()
    rank.close()


def test_a_plain_rank_names_strangers_too() -> None:
    rank = RankSocket("tcp://127.0.0.1:0")
    door = Door(rank)
    with _dial(rank, b"GET / HTTP/1.1\r\n\r\n"):
        door.until(lambda: bool(door.words))
    assert dict(door.words) == {"no_zeromq": 1}
    rank.close()


def test_a_producer_that_leaves_without_a_word_is_no_stranger(ring: KeyRing, rank: RankSocket) -> None:
    door, key = Door(rank), ring.add("ann")
    for _ in range(5):
        with ProducerSockets(key) as sockets:
            sockets.connect(rank.endpoint)
            monitor = sockets._dials[rank.endpoint.encode()]
            deadline = time.monotonic() + WAIT_S
            while monitor.socket.getsockopt(zmq.EVENTS) & zmq.POLLOUT == 0:
                assert time.monotonic() < deadline
                door.turn()
    with _dial(rank, b"GET / HTTP/1.1\r\n\r\n"):
        door.until(lambda: bool(door.words))
    assert dict(door.words) == {"no_zeromq": 1}


def test_nobody_gets_in_when_the_gate_breaks_and_the_rank_says_so(
    ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(self: Gate, now: float) -> None:
        raise MemoryError("no more")

    monkeypatch.setattr(Gate, "_answer_all", breaks)
    rank = RankSocket("tcp://127.0.0.1:0", keys=ring.trainer)
    try:
        with ProducerSockets(ring.stranger()) as sockets:
            sockets.connect(rank.endpoint)
            with pytest.raises(RunError, match=r"the gate of tcp://127.0.0.1:\d+ broke: MemoryError"):
                Door(rank).until(lambda: False)
            assert not sockets.send(rank.endpoint.encode(), b"in?")
    finally:
        began = time.monotonic()
        rank.close()
        assert time.monotonic() - began < 5


def test_nobody_gets_in_where_nobody_answers_for_keys_any_more(ring: KeyRing, rank: RankSocket) -> None:
    """ZeroMQ's own rule is that everybody does; so it is while a rank closes, for as long as it lingers."""
    rank._gate.close()
    key = ring.stranger()
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.curve_serverkey = key.trainer.encode()
        dealer.curve_publickey, dealer.curve_secretkey = key.pair.public.encode(), key.pair.secret.encode()
        monitor = dealer.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
        dealer.connect(rank.endpoint)
        assert monitor.poll(int(WAIT_S * 1000))
        event = int.from_bytes(monitor.recv_multipart()[0][:2], sys.byteorder)
        assert event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        monitor.close(linger=0)


def test_a_list_that_is_loosened_during_a_run_stays_and_is_warned_of(ring: KeyRing, rank: RankSocket) -> None:
    key, door = ring.add("ann"), Door(rank)
    (ring.folder / "allowed").chmod(0o644)
    door.until(lambda: bool(door.lines))
    assert "open to others (mode 0644); chmod 600" in door.lines[0]
    assert "the list stays as it was" in door.lines[0]
    with ProducerSockets(key) as sockets:
        sockets.connect(rank.endpoint)
        door.until(lambda: sockets.send(rank.endpoint.encode(), b"in") or door.words["unknown_key"] > 0)
        assert door.words["unknown_key"] == 1  # it came into the list after it was last believed
    (ring.folder / "allowed").chmod(0o600)
    with ProducerSockets(key) as sockets:
        sockets.connect(rank.endpoint)
        door.until(lambda: sockets.send(rank.endpoint.encode(), b"in"))


def test_where_all_have_spoken_the_last_to_come_are_too_many(ring: KeyRing) -> None:
    """Those who spoke before the gate had looked."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        gate = Gate(router, ring.trainer, max_connections=2)
        gate._open = {fd: _Connection(None, since=float(fd), is_heard=True) for fd in (10, 11, 12, 13)}
        gate._make_room(20.0)
        assert [fd for fd, connection in gate._open.items() if connection.is_ended] == [12, 13]
        gate.close()


# --- its parts --------------------------------------------------------------------------------------------------------


def test_the_same_is_said_once_a_minute_with_how_often_it_was() -> None:
    refusals = Refusals()
    for now in (0.0, 1.0, 59.0, 61.0):
        refusals.add("crowd", "10.0.0.5", "no room", now)
    refusals.add("crowd", "10.0.0.6", "no room", 61.0)
    refusals.add("no_key", "10.0.0.5", "no key", 61.0)
    taken = refusals.take()
    assert [refusal.line for refusal in taken] == [
        "refused 10.0.0.5: no room",
        "",
        "",
        "refused 10.0.0.5: no room (2 times more since the last line like this)",
        "refused 10.0.0.6: no room",
        "refused 10.0.0.5: no key",
    ]
    assert refusals.take() == []


def test_many_addresses_are_told_together_and_take_bounded_memory() -> None:
    refusals = Refusals()
    for number in range(20_000):
        refusals.add("no_key", f"10.0.{number >> 8}.{number & 255}", "no key", now=number / 1000)
    taken = refusals.take()
    assert len(taken) == 4096
    assert len(refusals._told) <= 1025
    assert {refusal.line for refusal in taken} == {""}


def test_only_the_connection_that_was_meant_is_hung_up_on() -> None:
    """Its descriptor may be another's by now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        pairs = []
        for _ in range(2):
            client = socket.create_connection(server.getsockname())
            pairs.append((client, server.accept()[0]))
        (first, first_here), (second, second_here) = pairs
        ends = ends_of(first_here.fileno())
        assert ends is not None
        assert ends.shown == "127.0.0.1"
        first.sendall(b"12345")
        first_here.recv(5)
        assert num_received_bytes(first_here.fileno()) == 5
        hang_up(second_here.fileno(), ends)
        second.sendall(b"x")
        assert second_here.recv(1) == b"x"
        hang_up(first_here.fileno(), ends)
        assert first.recv(1) == b""
        for each in (first, first_here, second, second_here):
            each.close()
    assert ends_of(server.fileno()) is None
    with open(os.devnull, "rb") as file:
        assert ends_of(file.fileno()) is None


def test_the_page_of_the_protocol_explains_every_word_that_refusals_are_counted_by() -> None:
    source = "".join((ROOT / "protocol" / name).read_text() for name in ("gate.py", "callers.py"))
    used = set(re.findall(r'(?:refusals\.add\(|connection, )"(\w+)"', source)) | {"no_key", "has_key"}
    page = (ROOT / "docs" / "protocol.md").read_text().split("## Refused connections")[1].split("## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == used
