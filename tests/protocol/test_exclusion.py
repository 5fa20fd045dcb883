"""Whoever sends little but nonsense is told once, hung up on, and by its key not heard for a while that grows."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.protocol.callers import Callers
from penstock.protocol.exclusion import Exclusions, RefusedCount
from penstock.protocol.keys import ProducerKey
from penstock.protocol.refusals import Refusals
from penstock.protocol.sockets import ProducerSockets, RankSocket
from tests.protocol.door import Door
from tests.protocol.key_ring import KeyRing

WHY = "1,000 of its messages were refused within 5 s"


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    return KeyRing(tmp_path)


@pytest.fixture
def rank(ring: KeyRing) -> Iterator[RankSocket]:
    made = RankSocket("tcp://127.0.0.1:0", keys=ring.trainer)
    yield made
    made.close()


class Critic(Door):
    """Refuses every message but `good`."""

    def __init__(self, rank: RankSocket) -> None:
        super().__init__(rank)
        self.gone: list[tuple[bytes, str]] = []

    def take(self, peer: bytes, said: bytes, now: float) -> None:
        if said != b"good":
            self.rank.blame(peer, now)

    def look(self, now: float) -> None:
        self.gone += self.rank.let_go(now)


def _dial(critic: Critic, key: ProducerKey | None) -> ProducerSockets:
    sockets = ProducerSockets(key)
    sockets.connect(critic.rank.endpoint)
    peer, before = critic.rank.endpoint.encode(), critic.heard.total()
    critic.until(lambda: sockets.send(peer, b"good"))
    critic.until(lambda: critic.heard.total() > before)
    return sockets


def _flood(critic: Critic, sockets: ProducerSockets) -> None:
    peer = critic.rank.endpoint.encode()

    def pour() -> bool:
        for _ in range(600):
            sockets.send(peer, b"bad")
        return bool(critic.gone)

    critic.until(pour)


def test_a_flooder_is_told_of_once_ended_and_kept_out_with_its_key_and_nobody_else(
    ring: KeyRing, rank: RankSocket
) -> None:
    critic, peer = Critic(rank), rank.endpoint.encode()
    bob, ann = _dial(critic, ring.add("bob")), _dial(critic, ann_key := ring.add("ann"))
    twin = _dial(critic, ann_key)
    _flood(critic, ann)
    num_heard = critic.heard.total()
    assert {why for _, why in critic.gone} == {f"{WHY}; nothing with the key of ann is heard for 10 s"}
    assert len(critic.gone) == 2  # its twin with the same key goes, too
    assert critic.words["nonsense"] == 1
    assert critic.lines == [f"refused 127.0.0.1: {WHY}; nothing with the key of ann is heard for 10 s"]
    again = ProducerSockets(ann_key)
    again.connect(rank.endpoint)
    whys: list[tuple[str, bool]] = []

    def refuses() -> bool:
        twin.send(peer, b"good")
        whys.extend(again.refusals(time.monotonic()))
        return bool(whys) and critic.words["excluded"] > 0

    critic.until(refuses)
    assert "is not heard for a while, after too many messages that were refused" in whys[0][0]
    assert critic.heard.total() == num_heard
    assert bob.send(peer, b"good")
    critic.until(lambda: critic.heard.total() == num_heard + 1)
    for each in (ann, bob, twin, again):
        each.close()


@pytest.mark.parametrize("own", [True, False], ids=["the run's own key", "no keys"])
def test_where_others_have_the_same_key_or_none_only_the_connection_ends(ring: KeyRing, own: bool) -> None:
    rank = RankSocket("tcp://127.0.0.1:0", keys=ring.trainer if own else None)
    key = ProducerKey(ring.trainer.pair, ring.trainer.pair.public) if own else None
    critic, peer = Critic(rank), rank.endpoint.encode()
    good, bad = _dial(critic, key), _dial(critic, key)
    _flood(critic, bad)
    assert [why for _, why in critic.gone] == [WHY]
    num_heard = critic.heard.total()
    assert good.send(peer, b"good")
    critic.until(lambda: critic.heard.total() == num_heard + 1)
    for each in (good, bad):
        each.close()
    rank.close()


class _Frame:
    """What a message's frame says of its connection, which has ended by then: there is no such descriptor."""

    def __init__(self, data: bytes) -> None:
        self.bytes = data

    def get(self, option: object) -> int:
        return 1 << 20


class _Gate:
    def __init__(self) -> None:
        self.refusals = Refusals()

    def heard(self, descriptor: int) -> None:
        return None


def test_those_that_have_gone_before_they_were_read_are_forgotten_in_bounded_memory() -> None:
    callers = Callers(_Gate(), None, max_connections=4)  # type: ignore[arg-type]
    for number in range(1000):
        for name in (b"\0%d" % number, b"chosen %d" % number):
            assert callers.may_speak(_Frame(name), _Frame(b"")) is name.startswith(b"\0")  # type: ignore[arg-type]
    assert len(callers._callers) <= 8
    assert callers.let_go(time.monotonic()) == []
    assert not callers._ending


# --- with a clock of their own ----------------------------------------------------------------------------------------


def test_the_thousandth_refusal_within_five_seconds_is_one_too_many() -> None:
    count = RefusedCount()
    assert [count.one_more(7.0 + number / 201) for number in range(1001)].index(True) == 999


def test_who_is_refused_less_than_that_may_be_so_for_ever() -> None:
    count = RefusedCount()
    assert not any(count.one_more(number / 199) for number in range(20_000))


def test_each_exclusion_is_twice_as_long_as_the_last_up_to_ten_minutes() -> None:
    exclusions, now, terms = Exclusions(), 100.0, []
    for _ in range(9):
        terms.append(exclusions.exclude("ann", now))
        assert exclusions.left_s("ann", now + 1) == terms[-1] - 1
        now += terms[-1] + 5
        assert exclusions.left_s("ann", now) == 0
    assert terms == [10, 20, 40, 80, 160, 320, 600, 600, 600]
    assert exclusions.left_s("bob", now) == 0


def test_who_has_been_quiet_for_ten_minutes_begins_anew() -> None:
    exclusions = Exclusions()
    assert exclusions.exclude("ann", 0.0) == 10
    assert exclusions.exclude("ann", 609.0) == 20
    assert exclusions.exclude("ann", 629.0 + 600.0) == 10
