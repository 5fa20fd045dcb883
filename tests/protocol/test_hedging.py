"""The ticket that all wait for goes to a second producer; the first group that comes counts."""

from typing import Any

import pytest

from penstock.protocol.fleet import PeerState
from penstock.protocol.messages import Ack, Cancel, Nack
from penstock.protocol.tickets import Attempt
from tests.protocol.desk import ANN, BOB, CAT, Desk, delivered, given, notes, sent
from tests.protocol.samples import NBYTES

USUAL_S = 2.0


def _desk(*, groups_made: int = 8, **changes: Any) -> Desk:
    """Bob has made so many groups, in two seconds each; Ann has come since."""
    desk = Desk(**changes)
    desk.join(BOB, groups=1)
    for index in range(groups_made):
        desk.plan(index)
        desk.work(BOB, index, seconds=USUAL_S)
    desk.ready(BOB, groups=0)
    desk.join(ANN)
    return desk


def _late(**changes: Any) -> Desk:
    """Ann has ticket 100, which has run for longer than twice the usual time, and Bob is given it too."""
    desk = _desk(**changes)
    desk.plan(100, 101, 102)
    desk.start(ANN, 100)
    desk.wait(1.0, ANN, BOB)
    desk.ready(BOB, groups=1)
    desk.wait(4.0, ANN, BOB)
    assert desk.held(BOB) == (Attempt(100, 1),)
    return desk


# --- when -------------------------------------------------------------------------------------------------------------


def test_a_running_head_is_hedged_after_twice_the_usual_time() -> None:
    desk = _desk()
    desk.plan(100)
    desk.start(ANN, 100)
    desk.ready(BOB)
    assert given(desk.wait(4.0, ANN, BOB)) == []
    actions = desk.wait(1.0, ANN, BOB)
    assert given(actions, BOB) == [(100, 1)]
    assert desk.machine.hedged == 1
    assert set(desk.held(ANN)) == {Attempt(100, 0)}, "the first attempt lives on"
    assert any(all(word in text for word in ("100", "ann", "bob")) for text in notes(actions))
    assert given(desk.wait(4.0, ANN, BOB)) == [], "two at a time are enough"


def test_a_head_that_nobody_has_begun_is_hedged_too() -> None:
    desk = _desk()
    desk.plan(100)
    desk.ready(BOB)
    assert given(desk.wait(5.0, ANN, BOB), BOB) == [(100, 1)]


def test_before_enough_groups_have_come_a_head_is_hedged_after_three_leases() -> None:
    desk = _desk(groups_made=7)
    desk.plan(100)
    desk.ready(BOB)
    assert given(desk.wait(30.0, ANN, BOB)) == [], "until then nobody knows what is usual"
    assert given(desk.wait(1.0, ANN, BOB)) == [(100, 1)]


def test_only_the_head_is_hedged() -> None:
    desk = _desk(order="ticket")
    desk.plan(100, 101)
    desk.start(ANN, 100)
    desk.start(ANN, 101)
    desk.ready(BOB)
    assert given(desk.wait(9.0, ANN, BOB)) == [(100, 1)]


@pytest.mark.parametrize("order", ["ticket", "arrival"])
def test_nothing_is_hedged_while_groups_lie_there_to_be_taken(order: str) -> None:
    desk = _desk(order=order)
    desk.plan(99, 100)
    desk.make(ANN, 99)
    desk.start(ANN, 100)
    desk.ready(BOB)
    assert given(desk.wait(9.0, ANN, BOB)) == []
    desk.machine.take(99)
    assert given(desk.wait(1.0, ANN, BOB)) == [(100, 1)]


def test_a_buffered_group_behind_the_head_does_not_stop_the_hedge() -> None:
    desk = _desk(order="ticket")
    desk.plan(100, 101)
    desk.make(ANN, 101)
    desk.start(ANN, 100)
    desk.ready(BOB)
    assert given(desk.wait(5.0, ANN, BOB)) == [(100, 1)]


def test_without_another_producer_nothing_is_hedged() -> None:
    desk = _desk()
    desk.plan(100)
    desk.start(ANN, 100)
    assert given(desk.wait(9.0, ANN, BOB)) == []


def test_a_hedge_never_takes_more_bytes_than_the_window() -> None:
    desk = _desk(window_bytes=2 * NBYTES - 1)
    desk.plan(100)
    desk.start(ANN, 100)
    desk.ready(BOB)
    assert given(desk.wait(9.0, ANN, BOB)) == []
    assert desk.machine.reserved_bytes == NBYTES


def test_a_hedge_counts_as_a_second_live_attempt_in_credit_and_bytes() -> None:
    desk = _late()
    assert desk.machine.num_outstanding == 4
    assert desk.machine.reserved_bytes == 4 * NBYTES
    desk.make(BOB, 100)
    assert desk.machine.num_outstanding == 1, "101 went to Bob, 102 is planned again: Ann had not begun them"
    assert desk.machine.reserved_bytes == 3 * NBYTES
    desk.machine.take(100)
    assert desk.machine.reserved_bytes == 2 * NBYTES


def test_a_wait_names_both_holders() -> None:
    desk = _late()
    text = desk.machine.describe_wait(desk.now)
    assert "held by ann (ready) for 5.0 s, running for 5.0 s and by bob (ready) for 0.0 s, not begun" in text


# --- who wins ---------------------------------------------------------------------------------------------------------


def test_the_first_group_wins_and_the_others_attempt_is_cancelled() -> None:
    desk = _late()
    actions = desk.make(BOB, 100)
    assert delivered(actions) == [100]
    assert sent(actions, Ack) == [Ack(attempts=(Attempt(100, 1),))]
    assert Attempt(100, 0) in {key for cancel in sent(actions, Cancel, ANN) for key in cancel.attempts}
    late = desk.make(ANN, 100, attempt=0)
    assert delivered(late) == []
    assert sent(late, Nack, ANN)[0].reason.startswith("stale: ")


def test_a_hedge_that_loses_is_not_punished() -> None:
    desk = _late()
    actions = desk.make(ANN, 100)
    assert delivered(actions) == [100]
    assert sent(actions, Cancel) == sent(actions, Cancel, BOB) == [Cancel(attempts=(Attempt(100, 1),))]
    assert desk.machine.peers[BOB].state is PeerState.READY
    assert given(desk.plan(103), BOB) == [(103, 0)], "it has room again at once"


def test_an_overtaken_producer_loses_what_it_has_not_begun_and_keeps_the_rest() -> None:
    desk = _late()
    desk.start(ANN, 101)
    desk.join(CAT)
    actions = desk.make(BOB, 100)
    assert desk.machine.peers[ANN].state is PeerState.STALLED
    assert desk.held(ANN) == (Attempt(101, 0),)
    assert (102, 1) in given(actions)
    assert given(desk.plan(103), ANN) == []
    assert delivered(desk.make(ANN, 101)) == [101]
    assert desk.machine.peers[ANN].state is PeerState.READY, "a group shows that it works"


def test_an_overtaken_producer_that_is_suspected_just_then_is_stalled_when_it_speaks() -> None:
    desk = _late()
    desk.wait(4.0, BOB)
    assert desk.machine.peers[ANN].state is PeerState.SUSPECT
    desk.make(BOB, 100)
    desk.wait(1.0, ANN, BOB)
    assert desk.machine.peers[ANN].state is PeerState.STALLED


def test_when_one_of_two_gives_up_the_other_still_works() -> None:
    desk = _late()
    assert given(desk.refuse(BOB, 100)) == []
    assert desk.held(ANN, 100) == (Attempt(100, 0),)
    assert delivered(desk.make(ANN, 100)) == [100]


def test_when_the_first_holder_vanishes_the_hedge_has_the_ticket() -> None:
    desk = _late()
    desk.machine.on_unreachable(ANN)
    assert (100, 2) not in given(desk.wait(1.0, BOB))
    assert delivered(desk.make(BOB, 100)) == [100]


def test_in_order_the_groups_behind_a_hedged_head_follow_at_once() -> None:
    desk = _late(order="ticket")
    assert delivered(desk.make(ANN, 102)) == []
    assert delivered(desk.make(ANN, 101)) == []
    assert delivered(desk.make(BOB, 100)) == [100, 101, 102]
