"""Handing out: order, window, credit, and what a waiting rank says."""

from dataclasses import replace

import pytest

from penstock.protocol.codec import decode, encode
from penstock.protocol.limits import MAX_HEADER_BYTES, MAX_INT
from penstock.protocol.messages import Drain, Header, Heartbeat, Tickets
from penstock.protocol.tickets import Attempt
from tests.protocol.desk import ANN, BOB, PATIENCE, Desk, delivered, given, sent
from tests.protocol.samples import NBYTES, a_ticket

# --- to whom ----------------------------------------------------------------------------------------------------------


def test_tickets_go_out_in_the_order_of_the_plan() -> None:
    desk = Desk()
    desk.join(ANN, groups=3)
    assert given(desk.plan(9, 2, 5, 1)) == [(9, 0), (2, 0), (5, 0)]


def test_tickets_go_out_by_whole_batches() -> None:
    # A batch of 8 images is 4 groups of 2: six tickets are a whole batch for one producer, a begun one for the other.
    desk = Desk()
    desk.join(ANN)
    desk.join(BOB)
    for index in range(6):
        desk.plan(index)
    assert sorted(len(peer.held) for peer in desk.machine.peers.values()) == [2, 4]


def test_a_producer_ten_times_slower_gets_a_tenth() -> None:
    desk = Desk()
    desk.join(ANN, groups=1)
    desk.plan(0)
    desk.join(BOB, groups=1)
    desk.plan(1)
    desk.work(ANN, 0, seconds=1.0)
    desk.work(BOB, 1, seconds=10.0)
    desk.ready(ANN, groups=100)
    desk.ready(BOB, groups=100)
    desk.plan(*range(10, 54))
    assert [len(desk.held(who)) for who in (ANN, BOB)] == [40, 4]


def test_credit_in_groups_is_never_exceeded() -> None:
    desk = Desk()
    desk.join(ANN, groups=3)
    assert given(desk.plan(*range(10))) == [(0, 0), (1, 0), (2, 0)]
    assert given(desk.wait(2.0, ANN)) == []
    assert (desk.machine.num_waiting, desk.machine.num_outstanding) == (10, 3)


def test_credit_in_bytes_is_never_exceeded() -> None:
    desk = Desk()
    desk.join(ANN, nbytes=3 * NBYTES - 1)
    assert given(desk.plan(*range(10))) == [(0, 0), (1, 0)]
    assert desk.machine.peers[ANN].held_bytes == 2 * NBYTES


def test_a_finished_group_makes_room_at_once() -> None:
    desk = Desk()
    desk.join(ANN, groups=1)
    desk.plan(0, 1)
    assert given(desk.make(ANN, 0)) == [(1, 0)]


def test_tickets_go_to_a_busy_producer_in_company_and_not_a_message_each() -> None:
    desk = Desk()
    desk.join(ANN, groups=8)
    desk.plan(*range(12))
    assert given(desk.make(ANN, 0)) == []
    assert given(desk.make(ANN, 1)) == [(8, 0), (9, 0)], "room for a quarter of its credit"
    assert [key.index for key in desk.held(ANN)] == list(range(2, 10))


def test_tickets_wait_for_company_until_the_next_tick_only() -> None:
    desk = Desk()
    desk.join(ANN, groups=8)
    desk.plan(*range(12))
    assert given(desk.make(ANN, 0)) == []
    desk.now += 0.05
    assert given(desk.machine.tick(desk.now)) == [(8, 0)]


def test_the_window_calls_for_tickets_when_an_eighth_of_it_is_free() -> None:
    desk = Desk(window_groups=16)
    assert desk.machine.has_worthwhile_room, "nobody holds anything, so no message will come"
    desk.join(ANN, groups=16)
    desk.plan(*range(16))
    for index, worthwhile in ((0, False), (1, True)):
        desk.make(ANN, index)
        desk.machine.take(index)
        assert desk.machine.has_worthwhile_room is worthwhile


def test_one_message_of_tickets_always_fits_a_header() -> None:
    desk = Desk()
    for index in range(600):
        desk.machine.plan(a_ticket(index, prompt="x" * 8000))
    actions = desk.join(ANN, groups=MAX_INT, nbytes=MAX_INT)
    frames = [encode(message, Header()) for message in sent(actions, Tickets)]
    assert max(len(frame) for frame in frames) <= MAX_HEADER_BYTES
    heard = [decode(frame)[1] for frame in frames]
    assert [ticket.index for message in heard if isinstance(message, Tickets) for ticket in message.tickets] == list(
        range(600)
    )


def test_what_a_producer_holds_can_always_be_named_in_a_heartbeat() -> None:
    desk = Desk()
    desk.join(ANN, groups=MAX_INT, nbytes=MAX_INT)
    desk.plan(*range(6000))
    (beat,) = sent(desk.wait(1.0), Heartbeat, ANN)
    assert len(beat.held) == desk.machine.num_outstanding > 1000
    assert decode(encode(beat, Header()))[1] == beat


# --- order and window -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("order", "expected"), [("ticket", [0, 1, 2, 3]), ("arrival", [3, 1, 0, 2])])
def test_groups_come_in_the_order_that_is_asked_for(order: str, expected: list[int]) -> None:
    desk = Desk(order=order)
    desk.join(ANN)
    desk.plan(0, 1, 2, 3)
    came = [index for made in (3, 1, 0, 2) for index in delivered(desk.make(ANN, made))]
    assert came == expected


def _fill(desk: Desk) -> int:
    """Plan as the stream does: while there is room. Returns how many."""
    count = 0
    while desk.machine.room_for(NBYTES):
        desk.plan(1000 + count)
        count += 1
    return count


@pytest.mark.parametrize("order", ["ticket", "arrival"])
def test_the_window_in_groups_counts_whatever_is_not_taken(order: str) -> None:
    desk = Desk(order=order, window_groups=5)
    desk.join(ANN, groups=3)
    assert _fill(desk) == 5
    for index in (1002, 1001, 1000):
        desk.make(ANN, index)
        assert not desk.machine.room_for(NBYTES), "running, buffered, delivered: all count"
    desk.machine.take(1000)
    assert desk.machine.room_for(NBYTES)
    desk.plan(0)
    assert not desk.machine.room_for(NBYTES)


def test_the_window_in_bytes_leaves_room_for_one_hedge() -> None:
    desk = Desk(window_bytes=5 * NBYTES)
    desk.join(ANN)
    assert _fill(desk) == 4
    assert desk.machine.reserved_bytes == 4 * NBYTES


def test_the_least_window_holds_one_group() -> None:
    desk = Desk(window_groups=1, window_bytes=NBYTES)
    desk.join(ANN)
    assert _fill(desk) == 1
    assert delivered(desk.make(ANN, 1000)) == [1000]
    assert not desk.machine.room_for(NBYTES)
    desk.machine.take(1000)
    assert desk.machine.room_for(NBYTES)


def test_a_group_that_is_more_than_the_window_is_refused_with_both_sizes() -> None:
    desk = Desk(window_bytes=NBYTES - 1)
    with pytest.raises(ValueError, match=rf"a group of {NBYTES} bytes .* {NBYTES - 1}"):
        desk.plan(0)


# --- drain ------------------------------------------------------------------------------------------------------------


def test_drain_hands_what_was_not_begun_to_others_in_the_same_breath() -> None:
    desk = Desk(patience=replace(PATIENCE, max_attempts=1))
    desk.join(ANN)
    desk.plan(0, 1, 2)
    desk.start(ANN, 0)
    desk.join(BOB)
    actions = desk.say(ANN, Drain(returned=(Attempt(1, 0), Attempt(2, 0)), reason="it was asked to end"))
    assert given(actions) == [(1, 1), (2, 1)], "without blame: one failure would be too many here"
    assert given(actions, ANN) == []
    assert set(desk.machine.peers[ANN].held) == {0}


def test_a_draining_producer_finishes_what_it_has_begun_and_gets_nothing_more() -> None:
    desk = Desk()
    desk.join(ANN)
    desk.plan(0)
    desk.start(ANN, 0)
    desk.say(ANN, Drain(returned=(), reason="it was asked to end"))
    assert given(desk.plan(1)) == []
    assert given(desk.ready(ANN)) == [], "not even if it says READY"
    desk.wait(5.0)
    assert given(desk.wait(1.0, ANN)) == [], "nor after a silence"
    assert delivered(desk.make(ANN, 0)) == [0]
    assert given(desk.wait(2.0, ANN)) == []


def test_a_ticket_that_a_drain_names_twice_goes_back_once() -> None:
    desk = Desk()
    desk.join(ANN)
    desk.plan(0)
    desk.say(ANN, Drain(returned=desk.held(ANN) * 2, reason="SIGTERM"))
    assert desk.machine.num_outstanding == 0
    assert given(desk.join(BOB), BOB) == [(0, 1)]


def test_drain_returns_only_what_the_producer_really_holds() -> None:
    desk = Desk()
    desk.join(ANN)
    desk.plan(0)
    desk.join(BOB)
    named = (Attempt(0, 0), Attempt(0, 7), Attempt(99, 0))
    assert given(desk.say(BOB, Drain(returned=named, reason="no"))) == []
    assert set(desk.machine.peers[ANN].held) == {0}


# --- what a waiting rank says -----------------------------------------------------------------------------------------


def test_a_wait_names_the_ticket_and_who_holds_it_for_how_long() -> None:
    desk = Desk()
    desk.machine.plan(a_ticket(812, need_by_step=40))
    text = desk.machine.describe_wait(0.0)
    assert "ticket 812" in text
    assert "step 40" in text
    assert "held by nobody" in text
    assert "waiting for the first producer" in text
    desk.join(ANN)
    desk.wait(2.0, ANN)
    text = desk.machine.describe_wait(desk.now)
    assert "held by ann" in text
    assert "2.0 s" in text
    assert "not begun" in text
    desk.start(ANN, 812)
    desk.wait(1.5, ANN)
    text = desk.machine.describe_wait(desk.now)
    assert "for 3.5 s" in text
    assert "running for 1.5 s" in text


def test_a_wait_without_any_producer_left_says_so() -> None:
    desk = Desk()
    desk.join(ANN)
    desk.wait(1.0, ANN)
    desk.plan(0)
    desk.machine.on_unreachable(ANN)
    desk.wait(1.0)
    assert "held by nobody: all producers are gone" in desk.machine.describe_wait(desk.now)


def test_a_wait_for_nothing_says_so() -> None:
    assert "none is planned yet (waiting for the first producer)" in Desk().machine.describe_wait(0.0)


def test_the_wait_is_for_the_first_ticket_that_has_not_come() -> None:
    desk = Desk(order="ticket")
    desk.join(ANN)
    desk.plan(5, 3, 4)
    desk.make(ANN, 5)
    desk.make(ANN, 4)
    assert "ticket 3" in desk.machine.describe_wait(desk.now)


def test_tickets_go_in_as_few_messages_as_the_values_for_their_images_allow() -> None:
    desk = Desk(window_groups=64, window_bytes=1 << 30)
    desk.join(ANN, groups=64, nbytes=1 << 30)
    for index in range(20):
        desk.machine.plan(a_ticket(index, num_images=1024, height=1, width=1, guidance_scales=(2.0,) * 1024))
    messages = sent(desk.machine.issue(desk.now, eager=True), Tickets)
    # 1,024 scales a ticket, 16,384 values a message.
    assert [len(message.tickets) for message in messages] == [16, 4]
    assert [ticket.index for message in messages for ticket in message.tickets] == list(range(20))
