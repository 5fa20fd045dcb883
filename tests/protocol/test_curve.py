"""Keys on real sockets: who gets in, who is told what, and who is out as soon as the list says so."""

import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from penstock.protocol.keys import ProducerKey
from penstock.protocol.sockets import ProducerSockets, RankSocket
from tests.protocol.key_ring import KeyRing

WAIT_S = 15.0


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    return KeyRing(tmp_path)


@pytest.fixture(params=["tcp", "ipc"])
def rank(ring: KeyRing, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[RankSocket]:
    endpoint = "tcp://127.0.0.1:0" if request.param == "tcp" else f"ipc://{tmp_path}/rank"
    socket = RankSocket(endpoint, keys=ring.trainer)
    yield socket
    socket.close()


class Talk:
    """A producer's sockets and a rank's, both turned by the test."""

    def __init__(self, rank: RankSocket, key: ProducerKey | None) -> None:
        self.rank = rank
        self.sockets = ProducerSockets(key)
        self.sockets.connect(rank.endpoint)
        self.heard: list[bytes] = []
        self.revoked: list[bytes] = []
        self.lines: list[str] = []
        self.words: set[str] = set()
        self.whys: list[tuple[str, bool]] = []

    def __enter__(self) -> "Talk":
        return self

    def __exit__(self, *exc: object) -> None:
        self.sockets.close()

    def say(self, text: bytes = b"word") -> bool:
        return self.sockets.send(self.rank.endpoint.encode(), text)

    def until(self, is_done: Callable[[], bool], *, speaks: bool = True) -> None:
        """Speak and listen until then."""
        deadline = time.monotonic() + WAIT_S
        while not is_done():
            assert time.monotonic() < deadline, (self.lines, self.whys)
            if speaks:
                self.say()
            self.rank.wait(20)
            self.heard += [peer for peer, _ in self.rank.received()]
            now = time.monotonic()
            self.revoked += [peer for peer, _ in self.rank.let_go(now)]
            for refusal in self.rank.refusals():
                self.words.add(refusal.word)
                self.lines += [refusal.line] if refusal.line else []
            self.whys = list(self.sockets.refusals(now)) or self.whys


def test_a_producer_with_an_allowed_key_gets_in_and_is_known_by_it(ring: KeyRing, rank: RankSocket) -> None:
    with Talk(rank, ring.add("ann")) as talk:
        talk.until(lambda: bool(talk.heard))
        assert rank.key_name(talk.heard[0]) == "ann"
        assert (talk.lines, talk.whys) == ([], [])


def test_the_trainer_s_own_key_opens_to_its_own_producers(ring: KeyRing, rank: RankSocket) -> None:
    own = ProducerKey(ring.trainer.pair, ring.trainer.pair.public)
    with Talk(rank, own) as talk:
        talk.until(lambda: bool(talk.heard))
        assert rank.key_name(talk.heard[0]) == "trainer"


class Wiretap:
    """Stands between a producer and a rank, and keeps all that passes."""

    def __init__(self, rank: RankSocket) -> None:
        host, port = rank.endpoint.removeprefix("tcp://").split(":")
        self._server = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self.passed = b""
        self._rank = (host, int(port))
        threading.Thread(target=self._stand, daemon=True).start()

    def _stand(self) -> None:
        producer, _ = self._server.accept()
        rank = socket.create_connection(self._rank)
        with producer, rank:
            while True:
                for side in select.select([producer, rank], [], [])[0]:
                    if not (passed := side.recv(1 << 16)):
                        return
                    self.passed += passed
                    (rank if side is producer else producer).sendall(passed)

    def close(self) -> None:
        self._server.close()


@pytest.mark.parametrize("has_keys", [True, False])
def test_nothing_that_was_said_can_be_read_on_the_way(ring: KeyRing, has_keys: bool) -> None:
    """But where there are no keys, which shows that the tap hears."""
    said, answer = b"a picture of my cat" * 20, b"a prompt of my novel" * 20
    rank = RankSocket("tcp://127.0.0.1:0", keys=ring.trainer if has_keys else None)
    tap = Wiretap(rank)
    with ProducerSockets(ring.add("ann") if has_keys else None) as producer:
        producer.connect(tap.endpoint)
        deadline = time.monotonic() + WAIT_S
        while not producer.send(tap.endpoint.encode(), said):
            assert time.monotonic() < deadline
        heard = None
        while heard is None:
            assert time.monotonic() < deadline
            rank.wait(50)
            heard = next(rank.received(), None)
        assert bytes(heard[1][0]) == said
        rank.send(heard[0], answer)
        while not list(producer.recv(50)):
            assert time.monotonic() < deadline
    rank.close()
    tap.close()
    assert (said in tap.passed, answer in tap.passed) == (not has_keys, not has_keys)
    assert len(tap.passed) > len(said) + len(answer)


@pytest.mark.parametrize(
    ("who", "word", "to_the_rank", "to_the_producer"),
    [
        ("stranger", "unknown_key", "its key {short}… is not in {folder}/allowed", "refuses the key {short}… of"),
        (
            "other trainer's",
            "other_trainer",
            "it was given the key of another trainer",
            "another key than old.key says",
        ),
    ],
)
def test_a_wrong_key_is_named_on_both_sides(
    ring: KeyRing, rank: RankSocket, who: str, word: str, to_the_rank: str, to_the_producer: str
) -> None:
    key = ring.stranger() if who == "stranger" else ring.of_another_trainer(ring.add("ann").pair)
    with Talk(rank, key) as talk:
        talk.until(lambda: word in talk.words and bool(talk.whys))
        names = {"short": key.pair.public[:8], "folder": ring.folder}
        assert any(to_the_rank.format(**names) in line for line in talk.lines)
        ((why, is_sure),) = talk.whys
        assert to_the_producer.format(**names) in why
        assert is_sure is (who == "stranger")
        assert talk.heard == []


def test_a_producer_without_a_key_is_told_to_get_one(ring: KeyRing, rank: RankSocket) -> None:
    with Talk(rank, None) as talk:
        talk.until(lambda: bool(talk.whys and talk.lines))
        assert "wants a key" in talk.whys[0][0]
        assert "it has no key" in talk.lines[0]


def test_a_producer_with_a_key_for_a_rank_without_one_is_told_so(ring: KeyRing) -> None:
    rank = RankSocket("tcp://127.0.0.1:0")
    try:
        with Talk(rank, ring.stranger()) as talk:
            talk.until(lambda: any(is_sure for _, is_sure in talk.whys) and bool(talk.lines))
            assert "has no keys and this producer has stranger.key" in talk.whys[0][0]
            assert "it has a key and this rank has none" in talk.lines[0]
    finally:
        rank.close()


def test_a_key_that_is_allowed_later_opens_though_it_was_refused_before(ring: KeyRing, rank: RankSocket) -> None:
    key = ring.add("ann")
    ring_line = (ring.folder / "allowed").read_text()
    ring.revoke("ann")
    with Talk(rank, key) as talk:
        talk.until(lambda: bool(talk.whys))
        (ring.folder / "allowed").write_text(ring_line)
        talk.until(lambda: bool(talk.heard))
        assert rank.key_name(talk.heard[0]) == "ann"


def test_a_revoked_key_is_not_heard_any_more_and_its_connection_ends(ring: KeyRing, rank: RankSocket) -> None:
    with Talk(rank, ring.add("ann")) as talk, Talk(rank, ring.add("bob")) as other:
        talk.until(lambda: bool(talk.heard))
        (identity,) = set(talk.heard)
        other.until(lambda: any(peer != identity for peer in other.heard))
        ring.revoke("ann")
        talk.until(lambda: bool(talk.revoked))
        assert talk.revoked == [identity]
        talk.heard.clear()
        talk.until(lambda: bool(talk.whys))  # hung up on, it dials again, and is refused
        assert "refuses the key" in talk.whys[0][0]
        assert identity not in talk.heard
        other.heard.clear()
        other.until(lambda: bool(other.heard))
        assert rank.key_name(other.heard[0]) == "bob"
        assert talk.revoked == [identity]


def test_from_the_moment_that_the_list_has_changed_nothing_of_a_revoked_key_is_heard(
    ring: KeyRing, rank: RankSocket
) -> None:
    """Also before the rank has looked who that is, and what lies in its queue."""
    key = ring.add("ann")
    with Talk(rank, key) as talk:
        talk.until(lambda: bool(talk.heard))
        ring.revoke("ann")
        deadline = time.monotonic() + WAIT_S
        while ring.trainer.allowed.name(key.pair.public) is not None:
            assert time.monotonic() < deadline
            rank.wait(5)
        assert talk.say(b"too late")
        rank.wait(500)
        assert list(rank.received()) == []


def test_a_connection_that_names_itself_is_not_heard(ring: KeyRing, rank: RankSocket) -> None:
    """By its routing id it could take the place of a producer that has just gone."""
    key = ring.add("ann")
    with Talk(rank, key) as talk, zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.ROUTING_ID, b"producer-7")
        dealer.curve_serverkey = key.trainer.encode()
        dealer.curve_publickey, dealer.curve_secretkey = key.pair.public.encode(), key.pair.secret.encode()
        dealer.connect(rank.endpoint)
        dealer.send(b"let me be producer-7")
        talk.until(lambda: "routing_id" in talk.words and bool(talk.heard))
        assert b"producer-7" not in talk.heard


def test_each_rank_has_a_key_of_its_own_and_nobody_can_take_its_place(tmp_path: Path) -> None:
    rings = [KeyRing(tmp_path / name) for name in ("a", "b")]
    key = rings[0].add("ann")
    rings[1].add("bob")
    allowed = (rings[0].folder / "allowed").read_text()
    (rings[1].folder / "allowed").write_text(allowed)
    ranks = [RankSocket("tcp://127.0.0.1:0", keys=ring.trainer) for ring in rings]
    try:
        with Talk(ranks[1], key) as wrong:
            wrong.until(lambda: bool(wrong.whys))  # it took rank 1 for rank 0
            assert "another key than" in wrong.whys[0][0]
            wrong.sockets.connect(ranks[1].endpoint, rings[1].trainer.pair.public)
            wrong.until(lambda: bool(wrong.heard))
    finally:
        for rank in ranks:
            rank.close()
