"""What a producer makes, in which order and company, within its credit, and how it drains."""

from dataclasses import replace
from typing import Any

import pytest

from penstock.protocol.actions import Send
from penstock.protocol.image_codec import RAW, CodedImages
from penstock.protocol.messages import Ack, Bye, Cancel, Drain, Heartbeat, Nack, Ready, Result, Started, Tickets
from penstock.protocol.tickets import Attempt, Ticket
from tests.protocol.bench import LIFE, R0, R1, Bench, indices, sent, welcome
from tests.protocol.samples import NBYTES, PIXELS, a_ticket

# --- batches ----------------------------------------------------------------------------------------------------------


def test_the_most_urgent_tickets_are_begun_first_across_ranks() -> None:
    bench = Bench(ranks=2)
    bench.give(a_ticket(0, need_by_step=5), a_ticket(2, need_by_step=9), a_ticket(4, need_by_step=1))
    bench.give(a_ticket(1, need_by_step=4), a_ticket(3, need_by_step=1), peer=R1)
    batch, actions = bench.machine.take(6)
    assert indices(batch) == [3, 4, 1]
    assert sent(actions, Started, R0) == [Started(attempts=(Attempt(4, 0),))]
    assert sent(actions, Started, R1) == [Started(attempts=(Attempt(3, 0), Attempt(1, 0)))]
    assert indices(bench.take()) == [0, 2]


def test_two_ranks_that_need_equally_soon_are_served_by_turns() -> None:
    # Index i belongs to rank i mod 2; both need two groups a step.
    bench = Bench(ranks=2)
    bench.give(*[a_ticket(index, need_by_step=index // 4) for index in range(0, 16, 2)])
    bench.give(*[a_ticket(index, rank=1, need_by_step=index // 4) for index in range(1, 16, 2)], peer=R1)
    for _ in range(4):
        batch = bench.take()
        assert sum(held.peer == R0 for held in batch) == sum(held.peer == R1 for held in batch) == 2


def test_a_batch_never_holds_more_images_than_fit() -> None:
    bench = Bench()
    bench.give(*[a_ticket(index, num_images=4) for index in range(5)])
    assert [indices(bench.take()) for _ in range(4)] == [[0, 1], [2, 3], [4], []]


def test_probes_share_batches_with_probes_alone_and_the_engine_is_not_asked_about_them() -> None:
    bench = Bench()
    asked: list[int] = []
    tickets = [replace(a_ticket(index, guidance_scales=(1.0 + index,)), probe=index % 2 == 1) for index in range(4)]
    bench.give(*tickets)
    assert bench.machine.has_queued_probe
    batches = [bench.machine.take(8, lambda ticket: asked.append(ticket.index))[0] for _ in range(3)]
    assert [indices(batch) for batch in batches] == [[0, 2], [1, 3], []]
    assert set(asked) == {0, 2}
    assert not bench.machine.has_queued_probe


def test_a_group_larger_than_a_batch_goes_alone() -> None:
    bench = Bench()
    bench.give(a_ticket(0, num_images=50), a_ticket(1, num_images=1))
    assert indices(bench.take()) == [0]
    assert indices(bench.take()) == [1]


@pytest.mark.parametrize(
    "recipe",
    [
        {"guidance_scales": (3.0,)},
        {"guidance_rescale": 0.0},
        {"guidance_start": 0.0},
        {"guidance_stop": 1.0},
        {"num_inference_steps": 9},
        {"scheduler": "DDIMScheduler"},
        {"native_height": 8},
        {"native_width": 8},
        {"height": 8},
        {"width": 8},
        {"model_digest": "d2"},
    ],
)
def test_tickets_that_cannot_share_a_batch_do_not(recipe: dict[str, Any]) -> None:
    bench = Bench()
    bench.give(a_ticket(0), a_ticket(1, **recipe), a_ticket(2))
    assert indices(bench.take()) == [0, 2]
    assert indices(bench.take()) == [1]


def test_prompt_seed_and_number_of_images_may_differ_in_a_batch() -> None:
    bench = Bench()
    bench.give(a_ticket(0), a_ticket(1, prompt="a dog", seed=1, num_images=1))
    assert indices(bench.take()) == [0, 1]


def test_the_engine_says_which_tickets_it_can_make_together() -> None:
    def by_width(ticket: Ticket) -> int:
        return ticket.recipe.width

    def by_itself(ticket: Ticket) -> int:
        return ticket.index

    tickets = [a_ticket(0), a_ticket(1, width=8), a_ticket(2, guidance_scales=(3.0,)), a_ticket(3, width=8, seed=1)]
    for company, batches in ((by_width, [[0, 2], [1, 3], []]), (by_itself, [[0], [1], [2], [3], []])):
        bench = Bench()
        bench.give(*tickets)
        assert [indices(bench.machine.take(8, company)[0]) for _ in batches] == batches


def test_room_and_need_count_whatever_the_company() -> None:
    bench = Bench()
    bench.give(*[a_ticket(index, need_by_step=9 - index, height=8 + index, num_images=3) for index in range(4)])
    assert [indices(bench.machine.take(6, lambda _: None)[0]) for _ in range(3)] == [[3, 2], [1, 0], []]


def test_a_ticket_that_may_be_poison_is_alone_whatever_the_company() -> None:
    bench = Bench()
    bench.give(a_ticket(0), replace(a_ticket(1), alone=True), a_ticket(2, height=8), replace(a_ticket(3), alone=True))
    assert [indices(bench.machine.take(8, lambda _: None)[0]) for _ in range(4)] == [[0, 2], [1], [3], []]


def test_a_ticket_that_may_be_poison_is_made_alone() -> None:
    bench = Bench()
    poisons = [replace(a_ticket(index), alone=True) for index in (1, 3)]
    bench.give(a_ticket(0), poisons[0], a_ticket(2), poisons[1])
    assert [indices(bench.take()) for _ in range(4)] == [[0, 2], [1], [3], []]
    bench.give(*poisons)
    assert [indices(bench.take()) for _ in range(3)] == [[1], [3], []], "not even with each other"


def test_a_ticket_that_was_handed_out_often_has_company_nevertheless() -> None:
    bench = Bench()
    bench.give(a_ticket(0), a_ticket(1, attempt=7), a_ticket(2, attempt=2))
    assert indices(bench.take()) == [0, 1, 2]


# --- results ----------------------------------------------------------------------------------------------------------


def test_a_finished_group_goes_to_its_rank_with_its_shape_and_attempt() -> None:
    bench = Bench()
    bench.give(a_ticket(3, attempt=2))
    (held,) = bench.take()
    (send,) = bench.finish(held)
    assert isinstance(send, Send)
    assert send.peer == R0
    assert send.message == Result(index=3, attempt=2, shape=(2, 4, 5, 3), crc32=77, seconds=0.5)
    assert send.payload == PIXELS
    assert bench.finish(held) == [], "a group is finished once"


def _finish_all(bench: Bench, payload_bytes: int) -> list[int]:
    """Finish all that is held; the groups that are sent at once."""
    images = CodedImages(RAW, (), memoryview(bytes(payload_bytes)))
    actions = [action for held in bench.take(64) for action in bench.machine.finish(held, images, 77, 0.5, bench.now)]
    return [result.index for result in sent(actions, Result)]


def _acknowledge(bench: Bench, index: int) -> list[int]:
    """The rank acknowledges a group; those that are sent then."""
    return [result.index for result in sent(bench.hear(Ack(attempts=(Attempt(index, 0),))), Result)]


def test_one_group_goes_first_to_tell_how_fast_the_link_is() -> None:
    bench = Bench()
    bench.give(*(a_ticket(index) for index in range(4)))
    assert _finish_all(bench, 1 << 20) == [0]
    bench.now += 0.001
    assert _acknowledge(bench, 0) == [1, 2, 3]


def test_tickets_whose_groups_wait_keep_their_leases() -> None:
    bench = Bench()
    bench.give(*(a_ticket(index) for index in range(4)))
    assert _finish_all(bench, 1 << 20) == [0]
    assert {key.index for key in bench.named()} == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("seconds_per_group", "under_way"),
    [(0.01, 7), (0.5, 5), (0.7, 4), (1.0, 3), (1.3, 2), (2.6, 1), (5.0, 1)],
)
def test_what_is_on_its_way_takes_no_longer_than_a_quarter_of_a_lease(seconds_per_group: float, under_way: int) -> None:
    """Of ten seconds. Heartbeats wait behind it, and do not name the tickets that come meanwhile."""
    bench = Bench()
    bench.give(*(a_ticket(index) for index in range(8)))
    _finish_all(bench, 1 << 20)
    on_their_way = {0}
    for index in range(8):
        bench.now += seconds_per_group  # one after the other, with nothing in between
        bench.hear(Heartbeat(held=tuple(ticket.key for ticket in map(a_ticket, range(8)))))
        on_their_way |= {*_acknowledge(bench, index)}
        on_their_way.discard(index)
        assert len(on_their_way) == min(under_way, 7 - index)


def test_a_link_that_becomes_narrow_is_known_to_be() -> None:
    bench = Bench(credit_groups=32)
    bench.give(*(a_ticket(index) for index in range(32)))
    _finish_all(bench, 1 << 20)
    for index in range(16):
        bench.now += 0.1
        _acknowledge(bench, index)
    before = len(bench.machine.links[R0].sent)
    bench.now += 2.0
    assert _acknowledge(bench, 16) == []
    bench.now += 2.0
    assert _acknowledge(bench, 17) == []
    assert len(bench.machine.links[R0].sent) == before - 2


def test_acknowledgements_that_are_heard_late_and_all_at_once_do_not_make_a_narrow_link_wide() -> None:
    """Ten groups a second; then the producer does not listen for two seconds."""
    bench = Bench(credit_groups=128, credit_bytes=10**9)
    for first in (0, 64):
        bench.give(*(a_ticket(index) for index in range(first, first + 64)))
    images = CodedImages(RAW, (), memoryview(bytes(1 << 10)))
    for held in bench.take(256):
        bench.machine.finish(held, images, 77, 0.5, bench.now)
    for index in range(20):
        bench.now += 0.1
        _acknowledge(bench, index)
    assert 20 <= len(bench.machine.links[R0].sent) <= 30
    bench.now += 2.0
    for index in range(20, 40):
        _acknowledge(bench, index)
        assert 2 <= len(bench.machine.links[R0].sent) <= 30
    for index in range(40, 80):
        bench.now += 0.1
        _acknowledge(bench, index)
        assert 2 <= len(bench.machine.links[R0].sent) <= 30
    assert len(bench.machine.links[R0].sent) >= 15, "and it is forgotten soon"


def test_a_link_whose_acknowledgements_come_by_the_tick_is_not_taken_for_narrow() -> None:
    """A heartbeat is due each 0.1 s, an ACK comes 50 ms after a group."""
    bench = Bench(credit_groups=64, credit_bytes=10**9, welcomes=False)
    bench.hear(replace(welcome(), heartbeat_ms=100, lease_ms=300))
    bench.machine.free()
    bench.give(*(a_ticket(index) for index in range(64)))
    images = CodedImages(RAW, (), memoryview(bytes(1 << 10)))
    for held in bench.take(128):
        bench.machine.finish(held, images, 77, 0.5, bench.now)
    link, ticks = bench.machine.links[R0], 0
    while link.sent:
        bench.now += 0.05
        bench.hear(Ack(attempts=tuple(link.sent)))
        ticks += 1
    assert ticks <= 20, "else one a tick, 64 in all"


def test_a_group_whose_acknowledgement_was_lost_is_missing_in_the_ranks_list() -> None:
    bench = Bench()
    bench.give(a_ticket(0), a_ticket(1))
    assert _finish_all(bench, 1 << 20) == [0]
    assert sent(bench.hear(Heartbeat(held=(Attempt(0, 0), Attempt(1, 0)))), Result) == []
    (result,) = sent(bench.hear(Heartbeat(held=(Attempt(1, 0),))), Result)
    assert result.index == 1


@pytest.mark.parametrize("how", ["cancel", "list", "bye", "welcome"])
def test_a_group_that_waits_is_dropped_when_nobody_wants_it(how: str) -> None:
    bench = Bench()
    bench.give(*(a_ticket(index) for index in range(3)))
    _finish_all(bench, 1 << 20)
    told: dict[str, Any] = {
        "cancel": Cancel(attempts=(Attempt(1, 0), Attempt(2, 0))),
        "list": Heartbeat(held=(Attempt(0, 0),)),
        "bye": Bye(reason="the run is over"),
        "welcome": welcome(),
    }
    bench.hear(told[how])
    assert not bench.machine.links[R0].waiting
    assert bench.hear(Ack(attempts=(Attempt(0, 0),))) == []


def test_a_group_that_the_rank_refuses_makes_room_for_the_next() -> None:
    bench = Bench()
    bench.give(a_ticket(0), a_ticket(1))
    assert _finish_all(bench, 1 << 20) == [0]
    refusal = Nack(index=0, attempt=0, reason="checksum: it says 1, its bytes 2", retryable=True)
    assert [result.index for result in sent(bench.hear(refusal), Result)] == [1]


def test_a_group_that_is_never_acknowledged_holds_the_others_up_for_one_lease() -> None:
    bench = Bench()
    bench.give(a_ticket(0), a_ticket(1))
    _finish_all(bench, 1 << 20)
    assert sent(bench.wait(9.0, R0), Result) == []
    assert [result.index for result in sent(bench.wait(2.0, R0), Result)] == [1]


def test_groups_that_wait_count_as_unacknowledged() -> None:
    """So a slow link holds its own tickets back, and what a producer keeps for it is bounded."""
    bench = Bench(credit_bytes=2 * NBYTES)
    bench.give(a_ticket(0), a_ticket(1))
    _finish_all(bench, 1 << 20)
    bench.give(a_ticket(2))
    assert bench.take() == []
    assert not bench.machine.drained


def test_a_ticket_that_cannot_be_made_is_given_back_with_the_reason() -> None:
    bench = Bench()
    bench.give(a_ticket(3, attempt=1))
    (held,) = bench.take()
    nack = Nack(index=3, attempt=1, reason="no scheduler X", retryable=False)
    assert sent(bench.machine.fail(held, "no scheduler X"), Nack, R0) == [nack]
    assert bench.named() == ()


# --- credit -----------------------------------------------------------------------------------------------------------


def test_tickets_beyond_the_credit_in_groups_are_handed_back_at_once() -> None:
    bench = Bench(credit_groups=3)
    assert sent(bench.give(a_ticket(0), a_ticket(1)), Nack) == []
    bench.take(2)
    nacks = sent(bench.give(a_ticket(2), a_ticket(3, attempt=1), a_ticket(4)), Nack, R0)
    assert [(nack.index, nack.attempt, nack.retryable) for nack in nacks] == [(3, 1, True), (4, 0, True)]
    assert all(nack.reason.startswith("credit: ") and "3 groups" in nack.reason for nack in nacks)
    assert bench.named() == (Attempt(0, 0), Attempt(1, 0), Attempt(2, 0))


def test_tickets_beyond_the_credit_in_bytes_are_handed_back_at_once() -> None:
    bench = Bench(credit_bytes=2 * NBYTES)
    (nack,) = sent(bench.give(a_ticket(0), a_ticket(1), a_ticket(2)), Nack, R0)
    assert nack.index == 2
    assert str(2 * NBYTES) in nack.reason


def test_each_rank_has_the_whole_credit() -> None:
    bench = Bench(credit_groups=2, ranks=2)
    assert sent(bench.give(a_ticket(0), a_ticket(2)), Nack) == []
    assert sent(bench.give(a_ticket(1), a_ticket(3), peer=R1), Nack) == []


def test_nothing_begins_while_as_many_bytes_as_the_credit_wait_for_an_answer() -> None:
    bench = Bench(credit_bytes=4 * NBYTES)
    bench.give(*[a_ticket(index) for index in range(4)])
    for index in range(4):
        (held,) = bench.take(2)
        bench.finish(held)
        assert sum(link.unacknowledged_bytes for link in bench.machine.links.values()) == (index + 1) * NBYTES
    bench.give(*[a_ticket(index) for index in range(4, 6)])
    assert bench.take() == []
    bench.hear(Ack(attempts=(Attempt(0, 0),)))
    assert indices(bench.take(2)) == [4]


def test_a_rank_that_acknowledges_nothing_holds_only_its_own_tickets_back() -> None:
    bench = Bench(credit_bytes=NBYTES, ranks=2)
    bench.give(a_ticket(0))
    (held,) = bench.take()
    bench.finish(held)
    bench.give(a_ticket(2))
    bench.give(a_ticket(1, rank=1, need_by_step=9), peer=R1)
    assert indices(bench.take()) == [1], "though the other is more urgent"
    assert bench.take() == []
    bench.hear(Ack(attempts=(Attempt(0, 0),)))
    assert indices(bench.take()) == [2]


def test_a_refused_group_no_longer_holds_the_engine_back() -> None:
    bench = Bench(credit_bytes=NBYTES)
    bench.give(a_ticket(0))
    (held,) = bench.take()
    bench.finish(held)
    bench.give(a_ticket(1))
    assert bench.take() == []
    bench.hear(Nack(index=0, attempt=0, reason="stale: not held by you any more", retryable=False))
    assert sum(link.unacknowledged_bytes for link in bench.machine.links.values()) == 0
    assert indices(bench.take()) == [1]


# --- drain ------------------------------------------------------------------------------------------------------------


def test_drain_returns_what_was_not_begun_to_each_rank() -> None:
    bench = Bench(ranks=2)
    bench.give(a_ticket(0), a_ticket(2), a_ticket(4, attempt=1))
    bench.give(a_ticket(1), peer=R1)
    batch = bench.take(4)
    assert indices(batch) == [0, 1]
    actions = bench.machine.drain("it was asked to end")
    assert sent(actions, Drain, R0) == [Drain(returned=(Attempt(2, 0), Attempt(4, 1)), reason="it was asked to end")]
    assert sent(actions, Drain, R1) == [Drain(returned=(), reason="it was asked to end")]
    assert bench.take() == []
    assert len(sent(bench.finish(batch[0]), Result)) == 1, "what was begun is finished"


def test_a_draining_producer_is_drained_when_all_is_made_sent_and_acknowledged() -> None:
    bench = Bench()
    bench.give(a_ticket(0), a_ticket(1))
    first, second = bench.take()
    bench.machine.drain("it was asked to end")
    assert not bench.machine.drained
    bench.finish(first)
    bench.machine.fail(second, "cannot")
    assert not bench.machine.drained, "the group is on its way"
    bench.hear(Ack(attempts=(Attempt(0, 0),)))
    assert bench.machine.drained


def test_an_idle_producer_is_drained_at_once() -> None:
    bench = Bench()
    bench.give(a_ticket(0))
    bench.machine.drain("it was asked to end")
    assert bench.machine.drained


def test_a_draining_producer_does_not_wait_for_a_rank_that_is_gone() -> None:
    bench = Bench()
    bench.give(a_ticket(0))
    (held,) = bench.take()
    bench.machine.drain("it was asked to end")
    bench.finish(held)
    bench.wait(11.0)
    assert bench.machine.drained


def test_tickets_that_cross_the_drain_on_their_way_are_handed_back_too() -> None:
    bench = Bench()
    bench.machine.drain("it was asked to end")
    (drain,) = sent(bench.give(a_ticket(7, attempt=1)), Drain, R0)
    assert drain.returned == (Attempt(7, 1),)
    assert bench.take() == []


def test_a_draining_producer_tells_a_rank_that_welcomes_it_now() -> None:
    bench = Bench(ranks=0)
    bench.machine.drain("it was asked to end")
    actions = bench.hear(welcome())
    assert len(sent(actions, Drain, R0)) == 1
    assert sent(actions, Ready) == []
    assert sent(bench.machine.loaded() + bench.machine.free(), Ready) == []
    assert bench.machine.on_message(R0, LIFE, Tickets(tickets=(a_ticket(0),)), 0.0)
    assert bench.take() == []
