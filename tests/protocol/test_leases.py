"""Time: silence, leases by named attempts, deadlines from STARTED, stalled producers, and the fleet as a whole."""

from dataclasses import replace

import pytest

from penstock.protocol.fleet import FleetState, PeerState
from penstock.protocol.messages import Bye, Cancel, Heartbeat, Started
from penstock.protocol.tickets import Attempt
from tests.protocol.desk import ANN, BOB, CAT, PATIENCE, Desk, given, notes, sent
from tests.protocol.samples import a_ticket

# --- leases -----------------------------------------------------------------------------------------------------------


def test_the_rank_names_what_it_believes_to_be_held_by_each_on_its_own_clock() -> None:
    desk = Desk()
    desk.join(ANN, groups=2)
    desk.plan(0, 1)
    desk.join(BOB)
    desk.plan(2)
    actions = desk.wait(3.0)
    assert sent(actions, Heartbeat, ANN) == [Heartbeat(held=(Attempt(0, 0), Attempt(1, 0)))] * 3
    assert sent(actions, Heartbeat, BOB) == [Heartbeat(held=(Attempt(2, 0),))] * 3
    assert sent(desk.say(ANN, Heartbeat(held=desk.held(ANN))), Heartbeat) == [], "none answers another"


def test_a_lease_lives_while_heartbeats_name_the_ticket() -> None:
    desk = Desk()
    desk.join(ANN)
    desk.plan(0)
    desk.wait(600.0, ANN)
    assert desk.machine.expired == 0
    assert desk.machine.num_outstanding == 1


def test_a_lease_runs_out_only_for_the_ticket_that_is_not_named() -> None:
    desk = Desk()
    desk.join(ANN, groups=2)
    desk.plan(0, 1)
    for _ in range(10):
        desk.say(ANN, Heartbeat(held=(Attempt(0, 0),)))
        desk.now += 1.0
        assert given(desk.machine.tick(desk.now)) == []
    desk.ready(ANN, groups=1)
    desk.join(BOB)
    desk.now += 0.5
    actions = desk.machine.tick(desk.now)
    assert given(actions, BOB) == [(1, 1)]
    assert sent(actions, Cancel, ANN) == [Cancel(attempts=(Attempt(1, 0),))], "whoever is only slow drops it"
    assert desk.machine.expired == 1
    assert (set(desk.machine.peers[ANN].held), set(desk.machine.peers[BOB].held)) == ({0}, {1})


@pytest.mark.parametrize("named", [Attempt(0, 1), Attempt(1, 0)])
def test_another_attempt_or_ticket_keeps_no_lease(named: Attempt) -> None:
    desk = Desk()
    desk.join(ANN, groups=1)
    desk.plan(0)
    for _ in range(11):
        desk.say(ANN, Heartbeat(held=(named,)))
        desk.now += 1.0
        desk.machine.tick(desk.now)
    assert desk.machine.expired == 1


def test_a_ticket_named_by_whom_does_not_hold_it_still_runs_out() -> None:
    desk = Desk()
    desk.join(ANN, groups=1)
    desk.plan(0)
    desk.join(BOB, groups=0)
    for _ in range(11):
        desk.say(BOB, Heartbeat(held=(Attempt(0, 0),)))
        desk.say(ANN, Heartbeat(held=()))
        desk.now += 1.0
        desk.machine.tick(desk.now)
    assert desk.machine.expired == 1


def test_started_keeps_a_lease_too() -> None:
    desk = Desk()
    desk.join(ANN)
    desk.plan(0)
    desk.now = 9.0
    desk.say(ANN, Started(attempts=(Attempt(0, 0), Attempt(55, 0))))
    desk.now = 15.0
    desk.machine.tick(desk.now)
    assert desk.machine.expired == 0
    desk.now = 19.1
    desk.machine.tick(desk.now)
    assert desk.machine.expired == 1


def test_a_cold_start_burns_no_lease() -> None:
    desk = Desk()
    desk.plan(0)
    desk.wait(1000.0)
    assert desk.machine.expired == 0
    assert given(desk.join(ANN)) == [(0, 0)]


# --- silence ----------------------------------------------------------------------------------------------------------


def test_a_silent_producer_is_suspected_and_comes_back_by_one_word() -> None:
    desk = Desk()
    desk.join(ANN)
    assert notes(desk.wait(3.0), warning=True) == []
    desk.now = 3.5
    assert any("ann" in text and "silent" in text for text in notes(desk.machine.tick(3.5), warning=True))
    assert desk.machine.peers[ANN].state is PeerState.SUSPECT
    assert given(desk.plan(0)) == [], "a suspect gets no new tickets"
    desk.say(ANN, Heartbeat(held=()))
    assert desk.machine.peers[ANN].state is PeerState.READY
    assert given(desk.machine.tick(desk.now)) == [(0, 0)]


def test_a_producer_silent_for_three_leases_is_forgotten() -> None:
    desk = Desk()
    desk.join(ANN)
    desk.wait(30.0)
    assert set(desk.machine.peers) == {ANN}
    desk.wait(1.0)
    assert desk.machine.peers == {}


def test_a_producer_that_was_silent_while_it_loaded_is_still_loading() -> None:
    desk = Desk()
    desk.hello(ANN)
    desk.wait(5.0)
    desk.say(ANN, Heartbeat(held=()))
    assert desk.machine.peers[ANN].state is PeerState.WARMING


def test_a_connection_that_is_gone_frees_its_tickets_at_once() -> None:
    desk = Desk()
    desk.join(ANN)
    desk.plan(0, 1)
    desk.join(BOB)
    desk.machine.on_unreachable(ANN)
    assert set(desk.machine.peers) == {BOB}
    assert given(desk.machine.tick(desk.now), BOB) == [(0, 1), (1, 1)]
    assert desk.machine.on_unreachable(ANN) == [], "told twice, it is gone once"


def test_bye_hands_the_tickets_to_others_in_the_same_breath() -> None:
    desk = Desk()
    desk.join(ANN)
    desk.plan(0, 1)
    desk.join(BOB)
    assert given(desk.say(ANN, Bye(reason="drained")), BOB) == [(0, 1), (1, 1)]
    assert set(desk.machine.peers) == {BOB}


# --- deadlines --------------------------------------------------------------------------------------------------------


def _seasoned(*, seconds: float, groups: int = 4) -> Desk:
    """Ann has made twenty groups, each in so many seconds."""
    desk = Desk()
    desk.join(ANN, groups=groups)
    for index in range(20):
        desk.plan(index)
        desk.work(ANN, index, seconds=seconds)
    return desk


def test_a_deadline_is_four_times_the_producers_95th_percentile_from_started() -> None:
    desk = _seasoned(seconds=5.0)
    desk.plan(100)
    desk.wait(60.0, ANN)
    assert desk.machine.expired == 0, "queued tickets burn nothing"
    desk.start(ANN, 100)
    desk.wait(20.0, ANN)
    assert desk.machine.expired == 0
    actions = desk.wait(1.0, ANN)
    assert desk.machine.expired == 1
    assert desk.machine.peers[ANN].state is PeerState.STALLED
    assert any("100" in text and "ann" in text for text in notes(actions, warning=True))


def test_the_95th_percentile_forgives_one_long_group_in_twenty() -> None:
    desk = Desk()
    desk.join(ANN, groups=1)
    for index in range(40):
        desk.plan(index)
        desk.work(ANN, index, seconds=9.0 if index in (5, 25) else 3.0)
    desk.plan(100)
    desk.start(ANN, 100)
    desk.wait(12.0, ANN)
    assert desk.machine.expired == 0
    desk.wait(1.0, ANN)
    assert desk.machine.expired == 1, "4 x 3 s; by the longest it would be 36 s"


def test_no_deadline_is_shorter_than_a_lease() -> None:
    desk = _seasoned(seconds=1.0)
    desk.plan(100)
    desk.start(ANN, 100)
    desk.wait(10.0, ANN)
    assert desk.machine.expired == 0
    desk.wait(1.0, ANN)
    assert desk.machine.expired == 1


def test_each_producer_has_a_deadline_of_its_own() -> None:
    desk = _seasoned(seconds=1.0, groups=1)
    desk.plan(100)
    desk.join(BOB, groups=1)
    desk.plan(101)
    desk.work(BOB, 101, seconds=30.0)
    desk.plan(102)
    desk.start(BOB, 102)
    desk.start(ANN, 100)
    actions = desk.wait(90.0, ANN, BOB)
    assert any("ann" in text for text in notes(actions, warning=True))
    assert desk.machine.peers[BOB].state is PeerState.READY, "it has 120 s"


def test_a_producer_that_has_finished_nothing_yet_has_the_time_of_a_cold_start() -> None:
    desk = Desk()
    desk.join(ANN)
    desk.plan(0)
    desk.start(ANN, 0)
    desk.wait(300.0, ANN)
    assert desk.machine.expired == 0
    desk.wait(1.0, ANN)
    assert desk.machine.expired == 1


def test_started_said_again_puts_off_no_deadline() -> None:
    desk = _seasoned(seconds=5.0)
    desk.plan(100)
    for second in range(21):
        desk.start(ANN, 100)
        desk.wait(1.0, ANN)
        assert desk.machine.expired == (0 if second < 20 else 1)


# --- idle -------------------------------------------------------------------------------------------------------------


def _idle() -> Desk:
    """Ann has tickets 0 and 1 and begins neither; Bob is READY and has no room."""
    desk = Desk()
    desk.join(ANN, groups=2)
    desk.plan(0, 1)
    desk.join(BOB, groups=0)
    return desk


def test_one_that_begins_nothing_for_three_leases_while_the_rank_waits_is_stalled() -> None:
    desk = _idle()
    desk.wait(30.0, ANN, BOB)
    assert desk.machine.peers[ANN].state is PeerState.READY
    actions = desk.wait(2.0, ANN, BOB)
    assert desk.machine.peers[ANN].state is PeerState.STALLED
    assert any("ann has begun nothing for 3" in text for text in notes(actions, warning=True))
    assert sent(actions, Cancel, ANN)[0] == Cancel(attempts=(Attempt(0, 0), Attempt(1, 0)))
    assert given(desk.ready(BOB), BOB) == [(0, 1), (1, 1)]


def test_one_that_was_only_busy_elsewhere_is_healed_by_ready_and_has_lost_nothing_but_its_place() -> None:
    desk = _idle()
    desk.wait(32.0, ANN, BOB)
    assert given(desk.ready(ANN)) == [(0, 1), (1, 1)]
    assert desk.machine.quarantined == desk.machine.expired == 0
    desk.wait(30.0, ANN, BOB)
    assert desk.machine.peers[ANN].state is PeerState.READY, "its time has begun anew"


def test_one_that_begins_something_now_and_then_is_not_idle() -> None:
    desk = _idle()
    desk.ready(ANN, groups=8)
    desk.plan(*range(2, 8))
    for index in range(4):
        desk.wait(20.0, ANN, BOB)
        desk.start(ANN, index)
        desk.make(ANN, index)
        desk.machine.take(index)
    assert desk.machine.peers[ANN].state is PeerState.READY


def test_a_producer_of_its_own_keeps_its_queue() -> None:
    desk = Desk()
    desk.join(ANN)
    desk.plan(0, 1)
    desk.hello(BOB)
    desk.wait(600.0, ANN, BOB)
    assert len(desk.held(ANN)) == 2, "Bob is still loading: nobody could make them sooner"


def test_nobody_is_idle_while_groups_lie_there_to_be_taken() -> None:
    desk = _idle()
    desk.start(ANN, 0)
    desk.make(ANN, 0)
    desk.wait(600.0, ANN, BOB)
    assert desk.machine.peers[ANN].state is PeerState.READY
    desk.machine.take(0)
    desk.wait(1.0, ANN, BOB)
    assert desk.machine.peers[ANN].state is PeerState.STALLED


def test_one_that_works_on_anything_is_not_idle() -> None:
    desk = _idle()
    desk.start(ANN, 0)
    desk.wait(100.0, ANN, BOB)
    assert desk.machine.peers[ANN].state is PeerState.READY, "its deadline is that of a cold start"


def test_slow_fleets_have_more_patience_with_idle_ones() -> None:
    desk = Desk()
    desk.join(BOB, groups=1)
    desk.plan(100)
    desk.work(BOB, 100, seconds=20.0)
    desk.ready(BOB, groups=0)
    desk.join(ANN, groups=1)
    desk.plan(0)
    desk.wait(80.0, ANN, BOB)
    assert desk.machine.peers[ANN].state is PeerState.READY
    desk.wait(2.0, ANN, BOB)
    assert desk.machine.peers[ANN].state is PeerState.STALLED, "4 x 20 s"


def test_two_that_hang_over_the_head_unbegun_do_not_hold_it_for_ever() -> None:
    desk = _seasoned(seconds=1.0, groups=1)
    desk.plan(100)
    desk.join(BOB, groups=1)
    desk.wait(5.0, ANN, BOB)
    assert desk.held(ANN) == (Attempt(100, 0),)
    assert desk.held(BOB) == (Attempt(100, 1),)
    desk.join(CAT, groups=1)
    assert given(desk.wait(35.0, ANN, BOB, CAT), CAT) == [(100, 2)]


def test_a_ticket_is_not_withheld_for_a_producer_in_its_cold_start() -> None:
    # Ann is full and may take 300 s for her first batch; Bob, who sent a garbled group, is idle.
    desk = Desk(order="ticket")
    desk.join(ANN, groups=1)
    desk.plan(5)
    desk.start(ANN, 5)
    desk.join(BOB)
    desk.plan(12)
    desk.make(BOB, 12, crc32=0)
    assert desk.held(BOB) == ()
    desk.wait(45.0, ANN, BOB)
    assert 12 in desk.machine.peers[BOB].held


def test_ready_said_again_and_again_is_no_work() -> None:
    desk = _idle()
    noted: list[str] = []
    for _ in range(32):
        desk.ready(ANN, groups=2)
        noted += notes(desk.wait(1.0, ANN, BOB), warning=True)
    assert any("ann has begun nothing" in text for text in noted)


@pytest.mark.parametrize("says_ready", [False, True])
def test_a_ticket_waits_a_bounded_time_for_a_producer_that_has_not_failed_it(says_ready: bool) -> None:
    # Ann is full and hangs; Bob, who failed ticket 2, is the only one who will ever have room.
    desk = _idle()
    desk.ready(BOB, groups=3)
    desk.plan(2)
    desk.refuse(BOB, 2)
    assert desk.held(BOB) == (), "it waits for Ann"
    waited_s = 0.0
    while (2, 1) not in given(desk.wait(1.0, ANN, BOB), BOB):
        waited_s += 1.0
        assert waited_s < 3 * PATIENCE.lease_s + 2
        if says_ready:
            desk.ready(ANN, groups=2)
    assert waited_s >= PATIENCE.lease_s - 1


# --- stalled ----------------------------------------------------------------------------------------------------------


def _stalled() -> Desk:
    """Ann hangs on ticket 100 and has lost 101 and 102, which she had not begun."""
    desk = _seasoned(seconds=1.0)
    desk.plan(100, 101, 102)
    desk.start(ANN, 100)
    desk.wait(11.0, ANN)
    return desk


def test_a_stalled_producer_loses_all_its_tickets_and_gets_no_more() -> None:
    desk = _stalled()
    assert desk.held(ANN) == ()
    assert given(desk.wait(100.0, ANN)) == [], "its heartbeats are no sign of work"
    assert given(desk.join(BOB), BOB) == [(100, 1), (101, 1), (102, 1)]


def test_a_stalled_producer_is_told_what_to_drop() -> None:
    desk = _seasoned(seconds=1.0)
    desk.plan(100, 101, 102)
    desk.start(ANN, 100)
    actions = desk.wait(11.0, ANN)
    dropped = {key for cancel in sent(actions, Cancel, ANN) for key in cancel.attempts}
    beats = [beat.held for beat in sent(actions + desk.wait(1.0), Heartbeat, ANN)]
    assert {Attempt(101, 0), Attempt(102, 0)} <= dropped
    assert beats[-1] == (), "what a CANCEL leaves out, the next heartbeat does not list"


def test_ready_heals_a_stalled_producer() -> None:
    desk = _stalled()
    assert given(desk.ready(ANN)) == [(100, 1), (101, 1), (102, 1)]
    assert desk.machine.peers[ANN].state is PeerState.READY


def test_a_group_heals_a_stalled_producer_though_it_comes_too_late() -> None:
    desk = _stalled()
    actions = desk.make(ANN, 100, attempt=0)
    assert given(actions) == [(100, 1), (101, 1), (102, 1)]
    assert desk.machine.rejects.counts == {("stale", "ann"): 1}


def test_a_stalled_producer_is_asked_for_ready_again_and_again() -> None:
    desk = _stalled()
    assert sent(desk.wait(3.0, ANN), Cancel, ANN) == [Cancel(attempts=())] * 3, "a lost CANCEL must not be the end"


def test_one_that_falls_silent_and_stalls_meanwhile_is_still_stalled_when_it_speaks() -> None:
    desk = _stalled()
    desk.wait(5.0)
    assert desk.machine.peers[ANN].state is PeerState.SUSPECT
    desk.wait(1.0, ANN)
    assert desk.machine.peers[ANN].state is PeerState.STALLED


def test_a_producer_without_room_gets_nothing_until_it_says_ready() -> None:
    desk = Desk(patience=replace(PATIENCE, max_attempts=1))
    desk.join(ANN)
    desk.plan(0)
    actions = desk.refuse(ANN, 0, "credit: it is for 1 groups", retryable=True)
    assert given(actions) == [], "nor is the ticket to blame: one failure would be too many here"
    assert given(desk.wait(2.0, ANN)) == []
    assert given(desk.ready(ANN)) == [(0, 1)]


# --- the fleet --------------------------------------------------------------------------------------------------------


def test_the_fleet_goes_and_comes_back_and_both_are_said_once() -> None:
    desk = Desk()
    desk.wait(3.0)
    assert desk.machine.fleet is FleetState.WAITING
    desk.hello(ANN)
    desk.wait(1.0, ANN)
    assert desk.machine.fleet is FleetState.WARMING
    desk.ready(ANN)
    desk.wait(1.0, ANN)
    assert desk.machine.fleet is FleetState.SERVING
    desk.machine.on_unreachable(ANN)
    gone_at = desk.now + 1.0
    gone = notes(desk.wait(7.0), warning=True)
    assert desk.machine.fleet is FleetState.GONE
    assert len(gone) == 1
    assert all(word in gone[0] for word in ("all producers are gone", "rank 0", "tcp://127.0.0.1:1"))
    desk.hello(BOB)
    said = notes(desk.wait(2.0, BOB))
    desk.ready(BOB)
    said += notes(desk.wait(2.0, BOB))
    assert desk.machine.fleet is FleetState.SERVING
    (back,) = [text for text in said if "again" in text]
    assert f"after {desk.now - 1.0 - gone_at:.1f} s" in back


def test_producers_that_are_there_and_do_nothing_are_a_state_of_their_own() -> None:
    desk = Desk()
    desk.join(ANN)
    desk.wait(1.0, ANN)
    said = notes(desk.wait(4.0), warning=True)
    assert desk.machine.fleet is FleetState.SILENT
    assert any("silent, stalled or draining" in text for text in said)
    said = notes(desk.wait(1.0, ANN))
    assert desk.machine.fleet is FleetState.SERVING
    assert any("again" in text for text in said)


def test_how_long_probes_take_says_nothing_of_when_a_group_is_late() -> None:
    """Else a fleet whose wire was just measured would be stalled over its first real batch."""
    desk = Desk()
    desk.join(ANN)
    for index in range(20):
        desk.machine.plan(replace(a_ticket(index), probe=True))
    desk.machine.issue(desk.now)
    desk.work(ANN, *range(8), seconds=1.0)
    assert desk.machine.peers[ANN].look(desk.now).service_s == ()
    assert desk.machine.peers[ANN].groups == 8
