"""Who is waited for, who counts, and who has come or gone since; stream and fleet say what they are told to."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from penstock.consumer.local_fleet import LocalFleet
from penstock.consumer.profile_run import meeting
from penstock.consumer.profile_run.meeting import RollCall
from penstock.consumer.stream import GroupStream
from penstock.protocol.errors import StarvedError
from penstock.protocol.fleet import FleetState, PeerState

Look = dict[str, PeerState]
WARMING, READY, DRAINING = PeerState.WARMING, PeerState.READY, PeerState.DRAINING


def _roll_call(looks: Sequence[Look], *, fleet: Any = None, states: Sequence[FleetState] = ()) -> RollCall:
    """Whoever looks sees one look after the other, the last again and again."""
    seen = itertools.chain(looks, itertools.repeat(looks[-1]))
    told: Iterator[FleetState] = itertools.chain(states, itertools.repeat(FleetState.SERVING))

    def look() -> SimpleNamespace:
        peers = tuple(
            SimpleNamespace(
                name=name,
                state=state,
                manifest=SimpleNamespace(device="cpu", backend="images" if name.startswith("photos") else "eager"),
            )
            for name, state in next(seen).items()
        )
        return SimpleNamespace(peers=peers, fleet=next(told))

    stream = cast(GroupStream, SimpleNamespace(look=look))
    return RollCall(stream, cast("LocalFleet | None", fleet), on_this_machine=False, begun=0.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[], float]:
    """A clock that only sleeping moves."""
    now = [0.0]
    fake = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds: now.__setitem__(0, now[0] + seconds))
    monkeypatch.setattr(meeting, "time", fake)
    return lambda: now[0]


def test_those_that_are_ready_count_and_one_that_loads_is_waited_for(clock: Callable[[], float]) -> None:
    roll_call = _roll_call([{}, {"ann": READY, "bob": WARMING}, {"ann": READY, "bob": READY}])
    roll_call.wait(1, timeout_s=900)
    assert [each.name for each in roll_call.met] == ["ann", "bob"]


def test_one_that_loads_without_end_is_no_producer_that_is_measured(clock: Callable[[], float]) -> None:
    roll_call = _roll_call([{"ann": READY, "bob": WARMING}])
    roll_call.wait(1, timeout_s=900)
    assert [each.name for each in roll_call.met] == ["ann"]
    assert clock() == pytest.approx(120, abs=1)


def test_of_two_kinds_of_images_there_must_be_one_producer_each(clock: Callable[[], float]) -> None:
    looks = [{"photos": READY}, {"photos": READY}, {"photos": READY, "ann": READY}]
    roll_call = _roll_call(looks, states=[FleetState.WAITING, FleetState.WAITING])
    roll_call.wait(1, timeout_s=900)
    assert [(each.name, each.generates) for each in roll_call.met] == [("ann", True), ("photos", False)]


def test_too_few_are_an_error_in_bounded_time(clock: Callable[[], float]) -> None:
    with pytest.raises(StarvedError, match=r"1 of 2 producers were ready in 30 s; see their logs, or raise stream\."):
        _roll_call([{"ann": READY}]).wait(2, timeout_s=30)
    assert clock() == pytest.approx(30, abs=1)


def test_one_of_the_runs_own_that_has_ended_is_not_waited_for(clock: Callable[[], float]) -> None:
    lost = ("producer local-1 has ended; the last line of log: oh",)
    fleet = SimpleNamespace(check=lambda: None, lost=lost, names=frozenset({"local-1"}))
    with pytest.raises(StarvedError, match="1 of 2 producers are ready, and no more will be: producer local-1 has"):
        _roll_call([{"ann": READY}], fleet=fleet).wait(2, timeout_s=900)
    assert clock() == 0.0


def test_the_runs_own_are_on_this_machine_wherever_it_listens(clock: Callable[[], float]) -> None:
    fleet = SimpleNamespace(check=lambda: None, lost=(), names=frozenset({"local-0"}))
    roll_call = _roll_call([{"local-0": READY, "far": READY}], fleet=fleet)
    roll_call.wait(2, timeout_s=900)
    assert [(each.name, each.is_local) for each in roll_call.met] == [("far", False), ("local-0", True)]


def test_who_comes_and_who_goes_is_kept_even_if_they_come_back(clock: Callable[[], float]) -> None:
    both = {"ann": READY, "bob": READY}
    later: list[Look] = [
        both,
        {"ann": READY, "bob": PeerState.SUSPECT, "carl": WARMING},
        {"ann": DRAINING, "carl": READY},
        both,
    ]
    roll_call = _roll_call([both, *later])
    roll_call.wait(2, timeout_s=900)
    roll_call.check()
    roll_call.check()
    assert (roll_call.left, roll_call.joined) == (set(), set())
    roll_call.check()
    roll_call.check()
    assert (roll_call.left, roll_call.joined) == ({"ann", "bob"}, {"carl"})
