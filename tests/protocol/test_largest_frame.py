"""The largest group of a run gets through and a larger one ends its connection, with keys and without them.

ZeroMQ measures a frame as it is on the wire, where CURVE has made it larger.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from zmq.utils.monitor import parse_monitor_message

from penstock.protocol import key_files
from penstock.protocol.keys import ALLOWED, TRAINER_KEY, make_pair, read_trainer_keys, trainer_text
from penstock.protocol.sockets import RankSocket

GROUP_BYTES = 4 * 512 * 512 * 3
WAIT_MS = 10_000


@pytest.fixture(params=["plain", "keys"])
def link(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[RankSocket, "zmq.Socket[bytes]"]]:
    """A rank whose largest group has GROUP_BYTES, and who has dialled it."""
    folder = tmp_path / "keys"
    folder.mkdir(mode=0o700)
    pair, has_keys = make_pair(), request.param == "keys"
    key_files.write_new(folder / TRAINER_KEY, trainer_text(pair))
    key_files.write_new(folder / ALLOWED, "")
    keys = read_trainer_keys(folder) if has_keys else None
    rank = RankSocket("tcp://127.0.0.1:0", group_bytes=GROUP_BYTES, keys=keys)
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        if has_keys:
            dealer.setsockopt(zmq.CURVE_SERVERKEY, pair.public.encode())
            dealer.setsockopt(zmq.CURVE_PUBLICKEY, pair.public.encode())
            dealer.setsockopt(zmq.CURVE_SECRETKEY, pair.secret.encode())
        yield rank, dealer
        rank.close()


def test_the_largest_group_arrives(link: tuple[RankSocket, "zmq.Socket[bytes]"]) -> None:
    rank, dealer = link
    dealer.connect(rank.endpoint)
    dealer.send(bytes(GROUP_BYTES))
    sizes: list[int] = []
    for _ in range(WAIT_MS // 100):
        rank.wait(100)
        sizes += [len(frames[0]) for _, frames in rank.received()]
        if sizes:
            break
    assert sizes == [GROUP_BYTES]


def test_a_larger_one_ends_the_connection_of_who_sends_it(link: tuple[RankSocket, "zmq.Socket[bytes]"]) -> None:
    rank, dealer = link
    dealer.setsockopt(zmq.RECONNECT_IVL, -1)
    monitor = dealer.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    dealer.connect(rank.endpoint)
    dealer.send(bytes(GROUP_BYTES + 1))
    assert monitor.poll(WAIT_MS), "the rank hangs up"
    assert parse_monitor_message(monitor.recv_multipart())["event"] == zmq.EVENT_DISCONNECTED
    rank.wait(0)
    assert [len(frames[0]) for _, frames in rank.received()] == []
    dealer.disable_monitor()
    monitor.close(linger=0)
