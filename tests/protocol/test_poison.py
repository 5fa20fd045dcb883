"""Which failures count against a ticket, and what happens to one that nobody can make."""

import zlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from penstock.protocol.actions import Action, Deliver
from penstock.protocol.messages import Bye, Cancel, Drain, Heartbeat, Nack, Started, Tickets
from penstock.protocol.tickets import Attempt
from tests.protocol.desk import ANN, BOB, CAT, PATIENCE, Desk, delivered, failures, given, notes, quarantined, sent
from tests.protocol.samples import NBYTES, a_ticket

ONE_STRIKE = replace(PATIENCE, max_attempts=1)
Mishap = Callable[[Desk], list[Action]]


def _vanish(desk: Desk) -> list[Action]:
    return desk.machine.on_unreachable(ANN)


def _hello_again(desk: Desk) -> list[Action]:
    return desk.hello(ANN)


def _forget(desk: Desk) -> list[Action]:
    """Heartbeats go on, but name nothing."""
    actions: list[Action] = []
    for _ in range(11):
        desk.now += 1.0
        actions += desk.say(ANN, Heartbeat(held=())) + desk.machine.tick(desk.now)
    return actions


def _hang(desk: Desk) -> list[Action]:
    return desk.wait(PATIENCE.cold_start_s + 1.0, ANN)


def _leave(desk: Desk) -> list[Action]:
    return desk.say(ANN, Bye(reason="pre-empted"))


def _drain(desk: Desk) -> list[Action]:
    return desk.say(ANN, Drain(returned=(Attempt(0, 0),), reason="pre-empted"))


def _drain_all(desk: Desk) -> list[Action]:
    return desk.say(ANN, Drain(returned=desk.held(ANN), reason="pre-empted"))


def _cannot(desk: Desk) -> list[Action]:
    return desk.refuse(ANN, 0)


def _no_room(desk: Desk) -> list[Action]:
    return desk.refuse(ANN, 0, "credit: full", retryable=True)


def _garble(desk: Desk) -> list[Action]:
    return desk.make(ANN, 0, crc32=0)


def _blacken(desk: Desk) -> list[Action]:
    return desk.make(ANN, 0, payload=bytes(NBYTES), crc32=zlib.crc32(bytes(NBYTES)))


LOSSES = [_vanish, _hello_again, _forget, _hang]


@pytest.mark.parametrize(
    ("begun", "mishap", "blamed"),
    [
        (True, _vanish, False),
        (True, _hello_again, False),
        (True, _forget, False),
        (True, _hang, False),
        (True, _cannot, True),
        (True, _blacken, True),
        (False, _cannot, True),
        (False, _blacken, True),
        (False, _vanish, False),
        (False, _hello_again, False),
        (False, _forget, False),
        (True, _leave, False),
        (False, _leave, False),
        (False, _drain, False),
        (False, _no_room, False),
        (True, _garble, False),
        (False, _garble, False),
    ],
)
def test_what_counts_against_a_ticket(begun: bool, mishap: Mishap, blamed: bool) -> None:
    desk = Desk(patience=ONE_STRIKE)
    desk.join(ANN)
    desk.plan(0)
    if begun:
        desk.start(ANN, 0)
    assert bool(quarantined(mishap(desk))) is blamed
    desk.join(BOB)
    assert desk.machine.num_outstanding == (0 if blamed else 1)


def _lose(desk: Desk, mishap: Mishap, *indices: int) -> list[Action]:
    """Ann comes, begins what she is given of these, and it is lost."""
    desk.join(ANN)
    desk.start(ANN, *indices)
    return mishap(desk)


def _loners(actions: list[Action]) -> dict[int, bool]:
    """Whether the tickets handed out must be made alone, by index."""
    return {ticket.index: ticket.alone for message in sent(actions, Tickets) for ticket in message.tickets}


@pytest.mark.parametrize("mishap", LOSSES)
def test_what_is_lost_is_made_alone_after_two_losses_and_fails_only_then(mishap: Mishap) -> None:
    desk = Desk(patience=replace(PATIENCE, max_attempts=4))
    desk.plan(0)
    assert [quarantined(_lose(desk, mishap, 0)) for _ in range(5)] == [[]] * 5, "two in company, three alone"
    (poison,) = quarantined(_lose(desk, mishap, 0))
    assert poison.ticket.index == 0


@pytest.mark.parametrize("mishap", LOSSES)
def test_the_third_time_a_lost_ticket_goes_out_alone_and_its_companion_that_waited_does_not(mishap: Mishap) -> None:
    desk = Desk()
    desk.plan(0, 1)
    for alone in (False, False, True, True):
        assert _loners(desk.join(ANN)) == {0: alone, 1: False}
        desk.start(ANN, 0)
        mishap(desk)


def test_losses_in_company_never_quarantine() -> None:
    # One strike would be too many here.
    desk = Desk(patience=ONE_STRIKE)
    desk.plan(*range(5))
    for _ in range(2):
        assert quarantined(_lose(desk, _vanish, *range(5))) == []
    assert _loners(desk.join(ANN)) == dict.fromkeys(range(5), True)
    desk.start(ANN, 3)
    assert [action.ticket.index for action in quarantined(_vanish(desk))] == [3], "those that wait are not begun"


@pytest.mark.parametrize("give_back", [_leave, _drain_all, _no_room, _garble])
def test_a_ticket_that_comes_back_without_fault_is_not_made_alone(give_back: Mishap) -> None:
    desk = Desk(patience=replace(PATIENCE, max_bad_results=9))
    desk.plan(0)
    for _ in range(6):
        assert _loners(desk.join(ANN)) == {0: False}
        assert _loners(give_back(desk)) in ({}, {0: False})
        desk.say(ANN, Bye(reason="over"))


def test_a_poison_that_kills_its_producers_is_quarantined_and_its_company_is_made() -> None:
    # A batch is four groups; ticket 2 ends whoever works on it. Producers make `alone` tickets in batches of one.
    desk = Desk(patience=replace(PATIENCE, max_attempts=4))
    desk.plan(*range(8))
    made: list[int] = []
    lost: list[Action] = []
    for life in range(20):
        who = b"p%d" % life
        mine = _loners(desk.join(who))
        while mine:
            alone = [index for index, is_alone in mine.items() if is_alone]
            batch = alone[:1] if next(iter(mine.values())) else [i for i, is_alone in mine.items() if not is_alone][:4]
            desk.start(who, *batch)
            if 2 in batch:
                lost += quarantined(desk.machine.on_unreachable(who))
                break
            for index in batch:
                made += delivered(desk.make(who, index))
                del mine[index]
    assert [action.ticket.index for action in lost] == [2]
    assert sorted(made) == [0, 1, 3, 4, 5, 6, 7]


def test_the_companions_of_a_hung_ticket_that_had_not_begun_are_not_to_blame() -> None:
    desk = Desk(patience=replace(ONE_STRIKE, max_quarantined=9))
    desk.plan(0, 1)
    for _ in range(2):
        _lose(desk, _hang, 0)
    desk.join(ANN)
    desk.start(ANN, 0)
    assert [action.ticket.index for action in quarantined(_hang(desk))] == [0]


def test_producers_that_leave_count_no_failed_attempt() -> None:
    desk = Desk()
    desk.plan(0)
    for life in range(10):
        who = b"p%d" % life
        assert given(desk.join(who), who) == [(0, life)]
        desk.start(who, 0)
        desk.say(who, Bye(reason="pre-empted"))
    desk.join(ANN)
    assert given(desk.refuse(ANN, 0)) == [(0, 11)], "it has failed once, not eleven times"


def test_a_nack_of_an_attempt_that_is_over_counts_for_nothing() -> None:
    desk = Desk()
    desk.join(ANN)
    desk.plan(0)
    desk.refuse(ANN, 0)
    for _ in range(5):
        assert quarantined(desk.say(ANN, Nack(index=0, attempt=0, reason="no", retryable=False))) == []
    assert desk.machine.num_outstanding == 1


@pytest.mark.parametrize("mishap", [_cannot, _garble, _blacken])
def test_a_ticket_that_went_wrong_is_tried_by_another_first(mishap: Mishap) -> None:
    desk = Desk()
    desk.join(ANN)
    desk.plan(0)
    desk.join(BOB, groups=1)
    assert given(mishap(desk), BOB) == [(0, 1)]


@pytest.mark.parametrize("seconds", [2.0, 30.0])
def test_one_broken_producer_beside_good_ones_costs_no_ticket_its_place(seconds: float) -> None:
    # The broken one answers at once, so it always has room; the good one is busy for so long with each.
    desk = Desk(patience=replace(PATIENCE, max_quarantined=10**6))
    desk.join(BOB, groups=1)
    desk.plan(0)
    desk.join(ANN)
    made: list[int] = []
    lost: list[Action] = []
    for index in range(1, 30):
        desk.plan(index)
        working = desk.held(BOB)
        desk.say(BOB, Started(attempts=working))
        for _ in range(int(seconds)):
            desk.wait(1.0, ANN, BOB)
            for key in desk.held(ANN):
                lost += quarantined(desk.refuse(ANN, key.index))
        for key in working:
            made += delivered(desk.make(BOB, key.index))
            desk.machine.take(key.index)
    assert lost == []
    assert len(made) >= 25


def test_after_a_pause_in_which_nobody_worked_another_is_still_tried_first() -> None:
    desk = Desk()
    desk.join(ANN)
    desk.join(BOB)
    desk.wait(600.0, ANN, BOB)
    desk.plan(0)
    (first,) = [who for who in (ANN, BOB) if desk.held(who)]
    (other,) = {ANN, BOB} - {first}
    assert given(desk.refuse(first, 0), other) == [(0, 1)]


def test_a_ticket_that_waits_for_another_producer_holds_up_none_behind_it() -> None:
    desk = Desk()
    desk.join(BOB, groups=1)
    desk.plan(0)
    desk.join(ANN)
    desk.plan(1)
    assert given(desk.refuse(ANN, 1)) == [], "Bob has no room yet"
    assert given(desk.plan(2, 3), ANN) == [(2, 0), (3, 0)]
    assert given(desk.make(BOB, 0)) == [(1, 1)]


def test_a_ticket_waits_for_no_producer_that_cannot_take_it() -> None:
    desk = Desk()
    desk.hello(BOB)
    desk.join(ANN)
    desk.plan(0)
    assert given(desk.refuse(ANN, 0)) == [(0, 1)], "Bob is still loading"
    desk.ready(BOB, groups=0)
    assert given(desk.refuse(ANN, 0)) == [(0, 2)], "Bob has no credit"


# --- quarantine -------------------------------------------------------------------------------------------------------


def _poison(desk: Desk, index: int, *, reason: str = "no scheduler X") -> list[Action]:
    """Whoever holds the ticket cannot make it, until it is handed out no more."""
    actions: list[Action] = []
    while holders := [who for who in desk.machine.peers if desk.held(who, index)]:
        actions += desk.refuse(holders[0], index, reason)
    return actions


def test_a_ticket_that_failed_too_often_is_quarantined_with_prompt_and_cause() -> None:
    desk = Desk()
    desk.join(ANN)
    desk.plan(0)
    assert given(desk.refuse(ANN, 0, "no scheduler X")) == [(0, 1)]
    assert given(desk.refuse(ANN, 0, "no scheduler X")) == [(0, 2)]
    actions = desk.refuse(ANN, 0, "no scheduler X")
    assert given(actions) == []
    (action,) = quarantined(actions)
    assert action.ticket.index == 0
    assert "no scheduler X" in action.reason
    (note,) = [text for text in notes(actions, warning=True) if "stand-in" in text]
    assert all(word in note for word in ("ticket 0", "a red fox", "3 times", "ann", "no scheduler X"))
    assert desk.machine.quarantined == 1
    assert desk.machine.num_waiting == 1, "its place is kept"
    assert given(desk.wait(5.0, ANN)) == []
    assert "quarantined" in desk.machine.describe_wait(desk.now)


def test_a_ticket_that_is_always_black_costs_its_producer_nothing() -> None:
    desk = Desk(patience=replace(PATIENCE, max_attempts=4))
    desk.join(ANN)
    desk.plan(0)
    actions = [action for _ in range(4) for action in _blacken(desk)]
    assert [action.ticket.index for action in quarantined(actions)] == [0]
    assert set(desk.machine.peers) == {ANN}
    assert given(desk.plan(1), ANN) == [(1, 0)]


def test_a_stand_in_takes_the_same_place_and_its_attempts_go_on_counting() -> None:
    desk = Desk(order="ticket")
    desk.join(ANN)
    desk.plan(0, 1)
    _poison(desk, 0)
    desk.make(ANN, 1)
    stand_in = replace(a_ticket(0, prompt="a dog"), stand_in=1)
    desk.machine.stand_in(stand_in)
    assert given(desk.machine.issue(desk.now)) == [(0, 3)]
    actions = desk.make(ANN, 0)
    assert delivered(actions) == [0, 1]
    (first, _) = [action for action in actions if isinstance(action, Deliver)]
    assert first.ticket == replace(stand_in, attempt=3), "so that the ledger names what was really made"


def test_a_late_group_of_the_poison_ticket_does_not_pass_for_its_stand_ins() -> None:
    desk = Desk()
    desk.join(ANN)
    desk.plan(0)
    _poison(desk, 0)
    desk.machine.stand_in(replace(a_ticket(0, prompt="a dog"), stand_in=1))
    desk.machine.issue(desk.now)
    for attempt in range(3):
        assert delivered(desk.make(ANN, 0, attempt=attempt)) == []
    assert delivered(desk.make(ANN, 0, attempt=3)) == [0]


def test_a_stand_in_has_failures_of_its_own_and_may_be_quarantined_too() -> None:
    desk = Desk()
    desk.join(ANN)
    desk.plan(0)
    _poison(desk, 0)
    desk.machine.stand_in(replace(a_ticket(0), stand_in=1))
    desk.machine.issue(desk.now)
    assert given(desk.refuse(ANN, 0)) == [(0, 4)]
    assert given(desk.refuse(ANN, 0)) == [(0, 5)]
    (action,) = quarantined(desk.refuse(ANN, 0))
    assert action.ticket.stand_in == 1


def test_a_ticket_that_failed_too_often_is_taken_from_its_other_holder_too() -> None:
    # Bob has made eight groups in two seconds each; Ann and Cat hold ticket 100 together, and Cat may hang over it.
    desk = Desk(patience=ONE_STRIKE)
    desk.join(BOB, groups=1)
    for index in range(8):
        desk.plan(index)
        desk.work(BOB, index, seconds=2.0)
    desk.say(BOB, Bye(reason="over"))
    desk.join(ANN)
    desk.plan(100)
    desk.join(CAT)
    desk.wait(5.0, ANN, CAT)
    assert desk.held(CAT) == (Attempt(100, 1),)
    actions = desk.refuse(ANN, 100)
    assert [action.ticket.index for action in quarantined(actions)] == [100]
    assert sent(actions, Cancel, CAT) == [Cancel(attempts=(Attempt(100, 1),))]
    assert desk.machine.num_outstanding == 0
    assert delivered(desk.make(CAT, 100, attempt=1)) == []


def test_too_many_in_a_row_stop_the_run_with_the_last_cause() -> None:
    desk = Desk()
    desk.join(ANN)
    desk.plan(0, 1, 2)
    assert failures(_poison(desk, 0) + _poison(desk, 1)) == []
    (text,) = failures(_poison(desk, 2, reason="no scheduler Y"))
    assert all(word in text for word in ("3 tickets in a row", "ticket 2", "no scheduler Y"))


def test_a_group_between_them_ends_the_row() -> None:
    desk = Desk()
    desk.join(ANN)
    for index in range(0, 20, 2):
        desk.plan(index, index + 1)
        assert failures(_poison(desk, index)) == []
        assert delivered(desk.make(ANN, index + 1)) == [index + 1]
    assert desk.machine.quarantined == 10


def test_nacks_are_answered_by_no_word_to_the_producer() -> None:
    desk = Desk()
    desk.join(ANN)
    desk.plan(0)
    assert sent(desk.refuse(ANN, 0), Nack) == []


def test_a_nack_of_no_ticket_harms_nothing() -> None:
    desk = Desk(patience=ONE_STRIKE)
    desk.join(ANN)
    desk.plan(0)
    for retryable in (True, False):
        assert quarantined(desk.say(ANN, Nack(index=-1, attempt=0, reason="no", retryable=retryable))) == []
    assert desk.held(ANN) == (Attempt(0, 0),)
