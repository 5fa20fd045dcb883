"""A producer's links, heartbeats and lives, message by message, with the time in the test's hand."""

from collections.abc import Callable

import pytest

from penstock.protocol.actions import Action, Connect, Disconnect, Finished, Note, Send
from penstock.protocol.links import LinkState
from penstock.protocol.messages import (
    Ack,
    Bye,
    Cancel,
    Header,
    Heartbeat,
    Hello,
    Nack,
    Ready,
    Reject,
    Result,
    Tickets,
)
from penstock.protocol.producer_machine import ProducerMachine
from penstock.protocol.tickets import Attempt
from tests.protocol.bench import LIFE, R0, R1, RANK0, RANK1, Bench, indices, sent, welcome
from tests.protocol.samples import MANIFEST, a_ticket

NEXT_LIFE = Header(run="run", incarnation=6)
SAY_HELLO = Nack(index=-1, attempt=0, reason="life: say HELLO", retryable=True)

# --- HELLO ------------------------------------------------------------------------------------------------------------


def test_hello_is_repeated_until_somebody_answers() -> None:
    bench = Bench(ranks=0)
    hello = Hello(producer="ann", manifest=MANIFEST)
    assert sent(bench.machine.tick(0.0), Hello) == [hello]
    assert sent(bench.machine.tick(0.5), Hello) == []
    assert sent(bench.machine.tick(1.0), Hello) == [hello]
    assert not bench.machine.connected
    assert bench.machine.header(R0) == Header()


def test_welcome_is_answered_with_credit_and_the_other_ranks_are_dialled() -> None:
    bench = Bench(ranks=0)
    actions = bench.hear(welcome(0, (RANK0, RANK1)))
    assert [action for action in actions if isinstance(action, Connect)] == [Connect(RANK1)]
    assert sent(actions, Ready) == [], "the engine may hang: only its own thread knows that it is free"
    assert sent(bench.machine.free(), Ready, R0) == [Ready(credit_groups=4, credit_bytes=10**6)], "half of 8, for two"
    assert bench.machine.connected
    assert bench.machine.header(R0) == LIFE


def test_an_operator_reads_when_a_producer_is_ready_for_a_rank() -> None:
    bench = Bench(loaded=False)
    ready = Note(f"ready for rank 0 at {RANK0}")
    assert ready not in bench.machine.free(), "it still loads"
    assert ready in bench.machine.loaded()
    bench.hear(Cancel(attempts=()))
    assert ready not in bench.machine.free(), "nothing new"


def test_a_producer_whose_engine_loads_is_welcome_and_says_ready_when_it_is_loaded() -> None:
    bench = Bench(loaded=False)
    assert bench.machine.connected
    assert bench.machine.links[R0].state is LinkState.WARMING
    actions = bench.wait(30.0, R0) + bench.machine.free()
    assert len(sent(actions, Heartbeat, R0)) == 30, "it keeps its place"
    assert sent(actions, Ready) == []
    assert sent(bench.machine.loaded(), Ready, R0) == [Ready(credit_groups=8, credit_bytes=10**6)]
    assert bench.machine.links[R0].state is LinkState.READY


def test_a_rank_is_dialled_once_however_often_it_is_named() -> None:
    bench = Bench(ranks=0)
    bench.hear(welcome(0, (RANK0, RANK1)))
    actions = bench.hear(welcome(1, (RANK0, RANK1)), peer=R1)
    assert not any(isinstance(action, Connect) for action in actions)
    assert bench.machine.connect(RANK0) == []


def test_a_rank_reached_by_another_name_of_its_host_is_not_dialled_twice() -> None:
    by_name = "tcp://localhost:1"
    bench = Bench(ranks=0)
    bench.machine.links.clear()
    bench.machine.connect(by_name)
    bench.hear(welcome(0, (RANK0, RANK1)), peer=by_name.encode())
    bench.hear(welcome(1, (RANK0, RANK1)), peer=R1)
    assert set(bench.machine.links) == {by_name.encode(), R1}


def test_reject_ends_the_link_and_the_only_link_ends_the_producer() -> None:
    bench = Bench()
    actions = bench.hear(Reject(reason="wrong digest"))
    assert [action for action in actions if isinstance(action, Finished)] == [Finished("wrong digest", rejected=True)]
    assert bench.wait(100.0) == []
    assert bench.hear(welcome()) == []


def test_bye_of_one_rank_leaves_the_other_served() -> None:
    bench = Bench(ranks=2)
    bench.give(a_ticket(0))
    bench.give(a_ticket(1), peer=R1)
    first = bench.hear(Bye(reason="over"))
    assert not any(isinstance(action, Finished) for action in first)
    assert [(a.peer, type(a.message)) for a in first if isinstance(a, Send)] == [(R0, Bye)], "so it may hang up"
    assert indices(bench.take()) == [1]
    last = bench.hear(Bye(reason="over"), peer=R1)
    assert [action for action in last if isinstance(action, Finished)] == [Finished("over", rejected=False)]


def test_a_rank_that_left_and_that_another_names_again_is_greeted_anew() -> None:
    bench = Bench(ranks=2)
    bench.hear(Bye(reason="over"))
    assert sent(bench.wait(3.0, R1), Hello) == [], "nobody says that it is back"
    actions = bench.hear(welcome(1, (RANK0, RANK1)), peer=R1, header=NEXT_LIFE)
    assert not any(isinstance(action, Connect) for action in actions), "its socket is still there"
    assert sent(bench.wait(1.0, R1), Hello, R0)
    bench.hear(welcome(0, (RANK0, RANK1)), header=NEXT_LIFE)
    assert sent(bench.machine.free(), Ready, R0)


def test_a_rank_that_refused_is_not_greeted_anew() -> None:
    bench = Bench(ranks=2)
    bench.hear(Reject(reason="wrong digest"))
    bench.hear(welcome(1, (RANK0, RANK1)), peer=R1, header=NEXT_LIFE)
    assert sent(bench.wait(3.0, R1), Hello, R0) == []


def test_leave_says_bye_where_it_was_welcome_and_holds_nothing_any_more() -> None:
    bench = Bench(ranks=0)
    bench.hear(welcome(0, (RANK0, RANK1)))
    bench.give(a_ticket(0), a_ticket(1))
    (held, _) = bench.take(4)
    actions = bench.machine.leave("drained")
    assert [(a.peer, a.message) for a in actions if isinstance(a, Send)] == [(R0, Bye(reason="drained"))]
    assert bench.finish(held) == []
    assert bench.take() == []
    assert bench.wait(100.0) == []


def test_a_rank_that_cannot_be_dialled_costs_its_own_link_only() -> None:
    bench = Bench(ranks=0)
    bench.hear(welcome(0, (RANK0, RANK1)))
    bench.machine.free()
    bench.machine.cannot_connect(RANK1)
    assert sent(bench.wait(5.0, R0), Hello) == [], "nothing is said to nobody"
    assert bench.machine.connected
    bench.give(a_ticket(0))
    assert indices(bench.take()) == [0]
    again = bench.hear(welcome(0, (RANK0, RANK1)))
    assert not any(isinstance(action, Connect) for action in again), "it is not dialled for ever"
    last = bench.hear(Bye(reason="over"))
    assert any(isinstance(action, Finished) for action in last), "nor waited for"


# --- heartbeats -------------------------------------------------------------------------------------------------------


def test_heartbeats_name_what_is_queued_running_and_sent() -> None:
    bench = Bench()
    bench.give(*[a_ticket(index, attempt=index % 2) for index in range(4)])
    held, *_ = bench.take(4)
    bench.finish(held)
    assert bench.named() == (Attempt(0, 0), Attempt(1, 1), Attempt(2, 0), Attempt(3, 1))
    bench.hear(Ack(attempts=(Attempt(0, 0),)))
    assert bench.named() == (Attempt(1, 1), Attempt(2, 0), Attempt(3, 1))


def test_heartbeats_name_to_each_rank_only_its_own_tickets() -> None:
    bench = Bench(ranks=2)
    bench.give(a_ticket(0))
    bench.give(a_ticket(1), peer=R1)
    beats = bench.wait(1.0)
    assert sent(beats, Heartbeat, R0) == [Heartbeat(held=(Attempt(0, 0),))]
    assert sent(beats, Heartbeat, R1) == [Heartbeat(held=(Attempt(1, 0),))]


def test_a_group_that_was_lost_on_its_way_is_not_named_for_ever() -> None:
    bench = Bench()
    bench.give(a_ticket(0))
    (held,) = bench.take()
    bench.finish(held)
    named = [beat.held for beat in sent(bench.wait(40.0, R0), Heartbeat)]
    assert named[0] == (Attempt(0, 0),), "while it may still arrive its lease lives"
    assert named[-1] == (), "then the rank must be able to give it to another"


@pytest.mark.parametrize(
    "take_back",
    [
        lambda bench: bench.hear(Heartbeat(held=(Attempt(1, 0),))),
        lambda bench: bench.hear(Cancel(attempts=(Attempt(0, 0), Attempt(2, 0), Attempt(2, 1)))),
    ],
    ids=["not listed", "cancelled"],
)
def test_queued_tickets_that_the_rank_took_back_are_forgotten(take_back: Callable[[Bench], list[Action]]) -> None:
    bench = Bench()
    bench.give(a_ticket(0), a_ticket(1), a_ticket(2))
    take_back(bench)
    assert indices(bench.take()) == [1]


@pytest.mark.parametrize(
    "message", [Heartbeat(held=()), Cancel(attempts=(Attempt(0, 0),))], ids=["not listed", "cancelled"]
)
def test_a_ticket_that_was_taken_back_while_it_was_made_is_not_sent(message: Heartbeat | Cancel) -> None:
    bench = Bench()
    bench.give(a_ticket(0))
    (held,) = bench.take()
    bench.hear(message)
    assert bench.finish(held) == []
    assert bench.named() == ()


def test_another_attempt_is_not_the_one_that_was_cancelled() -> None:
    bench = Bench()
    bench.give(a_ticket(0, attempt=1))
    bench.hear(Cancel(attempts=(Attempt(0, 0),)))
    assert indices(bench.take()) == [0]


def test_one_rank_says_nothing_about_anothers_tickets() -> None:
    bench = Bench(ranks=2)
    bench.give(a_ticket(1), peer=R1)
    bench.hear(Heartbeat(held=()))
    bench.hear(Cancel(attempts=(Attempt(1, 0),)))
    assert indices(bench.take()) == [1]


def test_after_a_cancel_the_rank_hears_when_the_engine_is_free_and_once() -> None:
    bench = Bench(ranks=2)
    assert bench.machine.free() == []
    bench.give(a_ticket(0))
    bench.take()
    bench.hear(Cancel(attempts=(Attempt(0, 0),)))
    assert sent(bench.wait(60.0, R0, R1), Ready) == [], "an engine that hangs is not free, though its I/O lives"
    ready = bench.machine.free()
    assert sent(ready, Ready) == sent(ready, Ready, R0) == [Ready(credit_groups=4, credit_bytes=10**6)]
    assert bench.machine.free() == []


def test_a_cancel_of_nothing_asks_for_ready_too() -> None:
    bench = Bench()
    bench.hear(Cancel(attempts=()))
    assert len(sent(bench.machine.free(), Ready, R0)) == 1


# --- lives ------------------------------------------------------------------------------------------------------------


def test_a_silent_rank_is_greeted_anew_and_its_tickets_are_forgotten() -> None:
    bench = Bench()
    bench.give(a_ticket(0), a_ticket(1))
    held, _ = bench.take(4)
    bench.now = 10.5
    assert sent(bench.machine.tick(10.5), Hello) == [Hello(producer="ann", manifest=MANIFEST)]
    assert not bench.machine.connected
    assert bench.take() == []
    assert bench.finish(held) == []
    assert sum(link.unacknowledged_bytes for link in bench.machine.links.values()) == 0


def test_a_new_life_of_the_rank_makes_the_old_ones_tickets_void() -> None:
    bench = Bench()
    bench.give(a_ticket(0), a_ticket(1))
    held, _ = bench.take(4)
    actions = bench.hear(SAY_HELLO, header=NEXT_LIFE)
    assert not any(isinstance(action, Finished) for action in actions)
    assert sent(bench.wait(1.0), Hello), "it says HELLO at its next turn, not a lease later"
    bench.hear(welcome(), header=NEXT_LIFE)
    assert bench.machine.header(R0) == NEXT_LIFE
    assert bench.take() == []
    assert bench.finish(held) == [], "no stale group goes to the new life"


@pytest.mark.parametrize("life", [LIFE, NEXT_LIFE])
def test_a_welcome_in_the_middle_of_work_makes_what_was_given_before_void(life: Header) -> None:
    bench = Bench()
    bench.give(*[a_ticket(index) for index in range(8)])
    held, sending, *_ = bench.take()
    bench.finish(sending)
    actions = bench.hear(welcome(), header=life)
    assert sent(actions + bench.machine.free(), Ready), "its credit is as new"
    assert bench.take() == []
    assert bench.finish(held) == []
    assert sum(link.unacknowledged_bytes for link in bench.machine.links.values()) == 0
    again = bench.hear(Tickets(tickets=tuple(a_ticket(index) for index in range(8))), header=life)
    assert sent(again, Nack) == [], "what was void takes no room"
    assert indices(bench.take(16)) == list(range(8))


def test_the_same_attempt_of_a_new_life_is_another_ticket() -> None:
    bench = Bench()
    bench.give(a_ticket(0))
    (old,) = bench.take()
    bench.hear(welcome(), header=NEXT_LIFE)
    bench.hear(Tickets(tickets=(a_ticket(0),)), header=NEXT_LIFE)
    (new,) = bench.take()
    assert bench.finish(old) == []
    assert len(sent(bench.finish(new), Result)) == 1


def test_what_an_earlier_life_still_says_is_not_heard() -> None:
    bench = Bench(ranks=0)
    bench.hear(welcome(), header=NEXT_LIFE)
    for message in (Tickets(tickets=(a_ticket(0),)), Bye(reason="over"), SAY_HELLO):
        bench.hear(message, header=LIFE)
    assert bench.machine.connected
    assert bench.take() == []


def test_tickets_before_a_welcome_are_not_taken() -> None:
    bench = Bench(ranks=0)
    bench.give(a_ticket(0))
    assert bench.take() == []


def test_a_rank_that_does_not_know_it_is_greeted_anew() -> None:
    bench = Bench()
    bench.give(a_ticket(0))
    bench.hear(Nack(index=-1, attempt=0, reason="unknown_producer: say HELLO", retryable=True))
    assert bench.take() == []
    assert sent(bench.wait(1.0), Hello)


def test_a_flood_of_refusals_is_noted_at_the_first_second_and_fourth_of_a_word() -> None:
    bench = Bench()
    noted = []
    for times in range(1, 101):
        nack = Nack(index=times, attempt=0, reason=f"stale: number {times}", retryable=False)
        noted += [times] if any(isinstance(action, Note) for action in bench.hear(nack)) else []
    assert noted == [1, 2, 4, 8, 16, 32, 64]
    other = bench.hear(Nack(index=0, attempt=0, reason="checksum: 1, not 2", retryable=True))
    assert [action.text for action in other if isinstance(action, Note)] == [
        f"{RANK0} refused a message: checksum: 1, not 2"
    ]


@pytest.mark.parametrize("reason", ["truncated: at byte 3", "sequence: number 4 was heard before"])
def test_a_refused_message_that_is_not_to_be_repeated_changes_nothing(reason: str) -> None:
    bench = Bench()
    bench.give(a_ticket(0))
    bench.hear(Nack(index=-1, attempt=0, reason=reason, retryable=False))
    assert bench.machine.connected
    assert indices(bench.take()) == [0]


# --- many ranks -------------------------------------------------------------------------------------------------------

MANY = tuple(f"tcp://10.0.0.{rank}:5599" for rank in range(12))


def _producer(name: str, *, credit_groups: int = 8, max_ranks: int = 0) -> ProducerMachine:
    machine = ProducerMachine(
        name=name, manifest=MANIFEST, credit_groups=credit_groups, credit_bytes=10**6, max_ranks=max_ranks
    )
    machine.connect(MANY[0])
    machine.loaded()
    return machine


def _welcomed(machine: ProducerMachine, rank: int) -> list[Action]:
    return machine.on_message(MANY[rank].encode(), LIFE, welcome(rank, MANY), 0.0)


@pytest.mark.parametrize(("credit_groups", "expected"), [(8, 1), (12, 1), (13, 2), (24, 2), (60, 5)])
def test_the_ranks_share_the_credit_and_each_gets_one_at_least(credit_groups: int, expected: int) -> None:
    machine = _producer("ann", credit_groups=credit_groups)
    _welcomed(machine, 0)
    [ready] = sent(machine.free(), Ready)
    assert ready.credit_groups == expected == max(1, -(-credit_groups // 12))


def test_a_producer_serves_only_the_ranks_that_its_name_draws_and_leaves_the_one_that_told_it_of_them() -> None:
    served: dict[int, int] = dict.fromkeys(range(12), 0)
    for number in range(600):
        machine = _producer(f"producer-{number}", max_ranks=3)
        actions = _welcomed(machine, 0)
        dialled = [MANY.index(action.endpoint) for action in actions if isinstance(action, Connect)]
        assert sent(actions, Bye) == [], "nobody else talks yet"
        later = [action for rank in dialled for action in _welcomed(machine, rank)]
        assert [action for action in later if isinstance(action, Connect)] == []
        left = sent(later, Bye, MANY[0].encode())
        ranks = {*dialled} if left else {*dialled, 0}
        assert len(ranks) == 3
        assert (Disconnect(MANY[0]) in machine.tick(1.0)) is bool(left)
        assert {ready.credit_groups for ready in sent(machine.free(), Ready)} == {3}, "8 tickets for three ranks"
        for rank in ranks:
            served[rank] += 1
    # 600 draws of 3 of 12: 150 each, with a standard deviation of 10.6.
    assert all(abs(count - 150) < 5 * 10.6 for count in served.values()), served


def test_a_name_draws_the_same_ranks_in_every_life() -> None:
    first, second = _producer("ann", max_ranks=3), _producer("ann", max_ranks=3)
    assert _welcomed(first, 0) == _welcomed(second, 0)


def _stranger() -> tuple[ProducerMachine, list[int]]:
    """A producer that has not drawn rank 0, which has told it of the others; and the ranks that it has drawn."""
    for number in range(99):
        machine = _producer(f"p{number}", max_ranks=3)
        dialled = [MANY.index(action.endpoint) for action in _welcomed(machine, 0) if isinstance(action, Connect)]
        if len(dialled) == 3:
            return machine, dialled
    raise AssertionError("all draw rank 0")


def test_a_rank_that_was_not_drawn_is_served_only_while_it_asks_and_no_other_talks() -> None:
    machine, dialled = _stranger()
    assert sent(machine.free(), Ready) == [], "it has no need of this producer, as far as that knows"
    machine.on_message(MANY[0].encode(), LIFE, Cancel(attempts=()), 0.0)
    assert len(sent(machine.free(), Ready, MANY[0].encode())) == 1
    assert len(sent(_welcomed(machine, dialled[0]), Bye, MANY[0].encode())) == 1


def test_a_producer_with_nothing_to_do_serves_one_rank_more_each_lease() -> None:
    machine = _producer("ann", max_ranks=3)
    dialled = [MANY.index(action.endpoint) for action in _welcomed(machine, 0) if isinstance(action, Connect)]
    for rank in dialled:
        _welcomed(machine, rank)
    machine.free()
    beat = Heartbeat(held=())
    found: list[tuple[int, str]] = []
    for now in range(1, 60):
        for rank in dialled:
            machine.on_message(MANY[rank].encode(), LIFE, beat, float(now))
        found += [(now, action.endpoint) for action in machine.tick(float(now)) if isinstance(action, Connect)]
    # A lease is 10 s; the first tick sees it idle at 1 s.
    assert [now for now, _ in found] == [11, 21, 31, 41, 51]
    assert len({endpoint for _, endpoint in found} - {MANY[rank] for rank in dialled}) == 5


def test_a_producer_with_work_serves_the_ranks_that_it_has_drawn() -> None:
    machine = _producer("ann", max_ranks=3)
    dialled = [MANY.index(action.endpoint) for action in _welcomed(machine, 0) if isinstance(action, Connect)]
    for rank in dialled:
        _welcomed(machine, rank)
    machine.free()
    ticket = a_ticket(0)
    machine.on_message(MANY[dialled[0]].encode(), LIFE, Tickets(tickets=(ticket,)), 0.5)
    beat = Heartbeat(held=(ticket.key,))
    actions: list[Action] = []
    for now in range(1, 60):
        machine.on_message(MANY[dialled[0]].encode(), LIFE, beat, float(now))
        for rank in dialled[1:]:
            machine.on_message(MANY[rank].encode(), LIFE, Heartbeat(held=()), float(now))
        actions += machine.tick(float(now))
    assert not any(isinstance(action, Connect) for action in actions)


def test_a_rank_that_was_left_is_dialled_again_when_nobody_talks() -> None:
    machine, dialled = _stranger()
    for rank in dialled:
        _welcomed(machine, rank)
    assert Disconnect(MANY[0]) in machine.tick(1.0)
    assert Connect(MANY[0]) not in machine.tick(5.0)
    actions = machine.tick(20.0) + machine.tick(20.05)  # all have been silent for more than a lease
    assert Connect(MANY[0]) in actions, "it may know where the others are now"
