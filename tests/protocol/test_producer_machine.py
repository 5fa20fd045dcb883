"""The producer's state machine, transition by transition, with the time in the test's hand."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from penstock.protocol.actions import Action, Connect, Finished, Send
from penstock.protocol.messages import (
    Ack,
    Bye,
    Header,
    Heartbeat,
    Hello,
    Message,
    Nack,
    Ready,
    Reject,
    Result,
    Started,
    Tickets,
    Welcome,
)
from penstock.protocol.producer_machine import HeldTicket, LinkState, ProducerMachine
from penstock.protocol.tickets import Manifest, Recipe, Ticket

RECIPE = Recipe(
    prompt="a red fox",
    seed=7,
    num_images=4,
    guidance_scale=2.0,
    num_inference_steps=8,
    scheduler="default",
    height=4,
    width=5,
    model_digest="d1",
)
MANIFEST = Manifest(
    model="tiny",
    model_digest="d1",
    scheduler="DDIMScheduler",
    dtype="float32",
    backend="eager",
    device="cpu",
    batch_images=8,
    versions={},
)
RANK0, RANK1 = "tcp://127.0.0.1:1", "tcp://127.0.0.1:2"
R0, R1 = RANK0.encode(), RANK1.encode()
HEADER = Header(run="run", incarnation=5)
PIXELS = bytes(RECIPE.nbytes)


def _welcome(rank: int = 0, endpoints: tuple[str, ...] = (RANK0,)) -> Welcome:
    return Welcome(rank=rank, world_size=len(endpoints), endpoints=endpoints, heartbeat_ms=1000, lease_ms=10_000)


def _ticket(index: int, *, need: int = 0, attempt: int = 0, rank: int = 0, **recipe: object) -> Ticket:
    changed = replace(RECIPE, **recipe)
    return Ticket(index=index, rank=rank, attempt=attempt, need_by_step=need, recipe=changed)


def _machine(credit_bytes: int = 10**6) -> ProducerMachine:
    machine = ProducerMachine(name="ann", manifest=MANIFEST, credit_groups=8, credit_bytes=credit_bytes)
    machine.connect(RANK0)
    return machine


def _ready(now: float = 0.0, credit_bytes: int = 10**6) -> ProducerMachine:
    machine = _machine(credit_bytes)
    machine.tick(now)
    machine.on_message(R0, HEADER, _welcome(), now)
    return machine


def _give(machine: ProducerMachine, *tickets: Ticket, peer: bytes = R0, now: float = 0.0) -> None:
    machine.on_message(peer, HEADER, Tickets(tickets=tickets), now)


def _sent(actions: Sequence[Action], kind: type[Message]) -> list[Message]:
    messages = [action.message for action in actions if isinstance(action, Send)]
    return [message for message in messages if isinstance(message, kind)]


def _indices(batch: Sequence[HeldTicket]) -> list[int]:
    return [held.ticket.index for held in batch]


# --- HELLO -------------------------------------------------------------------------------------------


def test_hello_is_repeated_until_somebody_answers() -> None:
    machine = _machine()
    hello = Hello(producer="ann", manifest=MANIFEST)
    assert _sent(machine.tick(0.0), Hello) == [hello]
    assert _sent(machine.tick(0.5), Hello) == []
    assert _sent(machine.tick(1.0), Hello) == [hello]
    assert not machine.connected
    assert machine.header(R0) == Header()


def test_welcome_is_answered_with_credit_and_the_other_ranks_are_dialled() -> None:
    machine = _machine()
    machine.tick(0.0)
    actions = machine.on_message(R0, HEADER, _welcome(0, (RANK0, RANK1)), 0.1)
    assert _sent(actions, Ready) == [Ready(credit_groups=8, credit_bytes=10**6)]
    assert [action for action in actions if isinstance(action, Connect)] == [Connect(RANK1)]
    assert machine.connected
    assert machine.header(R0) == HEADER


def test_a_rank_is_dialled_once_however_often_it_is_named() -> None:
    machine = _machine()
    machine.on_message(R0, HEADER, _welcome(0, (RANK0, RANK1)), 0.0)
    actions = machine.on_message(R1, HEADER, _welcome(1, (RANK0, RANK1)), 0.0)
    assert not any(isinstance(action, Connect) for action in actions)
    assert machine.connect(RANK0) == []


def test_a_rank_reached_by_another_name_of_its_host_is_not_dialled_twice() -> None:
    machine = ProducerMachine(name="ann", manifest=MANIFEST, credit_groups=8, credit_bytes=10**6)
    by_name = "tcp://localhost:1"
    machine.connect(by_name)
    machine.on_message(by_name.encode(), HEADER, _welcome(0, (RANK0, RANK1)), 0.0)
    machine.on_message(R1, HEADER, _welcome(1, (RANK0, RANK1)), 0.0)
    assert set(machine.links) == {by_name.encode(), R1}


def test_reject_ends_the_link_and_the_only_link_ends_the_producer() -> None:
    machine = _machine()
    actions = machine.on_message(R0, HEADER, Reject(reason="wrong digest"), 0.0)
    assert [a for a in actions if isinstance(a, Finished)] == [Finished("wrong digest", rejected=True)]
    assert machine.tick(100.0) == []
    assert machine.on_message(R0, HEADER, _welcome(), 101.0) == []


def test_bye_of_one_rank_leaves_the_other_served() -> None:
    machine = _machine()
    machine.on_message(R0, HEADER, _welcome(0, (RANK0, RANK1)), 0.0)
    machine.on_message(R1, HEADER, _welcome(1, (RANK0, RANK1)), 0.0)
    _give(machine, _ticket(0), peer=R0)
    _give(machine, _ticket(1), peer=R1)
    first = machine.on_message(R0, HEADER, Bye(reason="over"), 0.0)
    assert not any(isinstance(action, Finished) for action in first)
    assert _indices(machine.take(100)[0]) == [1]
    assert [(a.peer, type(a.message)) for a in first if isinstance(a, Send)] == [(R0, Bye)], "so it may hang up"
    last = machine.on_message(R1, HEADER, Bye(reason="over"), 0.0)
    assert [a for a in last if isinstance(a, Finished)] == [Finished("over", rejected=False)]


# --- work --------------------------------------------------------------------------------------------


def test_the_most_urgent_tickets_are_begun_first_across_ranks() -> None:
    machine = _machine()
    machine.on_message(R0, HEADER, _welcome(0, (RANK0, RANK1)), 0.0)
    machine.on_message(R1, HEADER, _welcome(1, (RANK0, RANK1)), 0.0)
    _give(machine, _ticket(0, need=5), _ticket(2, need=9), _ticket(4, need=1), peer=R0)
    _give(machine, _ticket(1, need=4), _ticket(3, need=1), peer=R1)
    batch, actions = machine.take(12)
    assert _indices(batch) == [3, 4, 1]
    started = {action.peer: action.message for action in actions if isinstance(action, Send)}
    assert started == {R0: Started(indices=(4,)), R1: Started(indices=(3, 1))}
    assert machine.num_queued == 2


def test_a_batch_never_holds_more_images_than_fit() -> None:
    machine = _ready()
    _give(machine, *[_ticket(index) for index in range(5)])
    assert [_indices(machine.take(8)[0]) for _ in range(4)] == [[0, 1], [2, 3], [4], []]


def test_a_group_larger_than_a_batch_goes_alone() -> None:
    machine = _ready()
    _give(machine, _ticket(0, num_images=50), _ticket(1, num_images=1))
    assert _indices(machine.take(8)[0]) == [0]
    assert _indices(machine.take(8)[0]) == [1]


@pytest.mark.parametrize(
    "recipe",
    [
        {"guidance_scale": 3.0},
        {"num_inference_steps": 9},
        {"scheduler": "DDIMScheduler"},
        {"height": 8},
        {"width": 8},
        {"model_digest": "d2"},
    ],
)
def test_tickets_that_cannot_share_a_batch_do_not(recipe: dict[str, object]) -> None:
    machine = _ready()
    _give(machine, _ticket(0), _ticket(1, **recipe), _ticket(2))
    assert _indices(machine.take(100)[0]) == [0, 2]
    assert _indices(machine.take(100)[0]) == [1]


def test_prompt_seed_and_number_of_images_may_differ_in_a_batch() -> None:
    machine = _ready()
    _give(machine, _ticket(0), _ticket(1, prompt="a dog", seed=1, num_images=2))
    assert _indices(machine.take(100)[0]) == [0, 1]


def test_a_finished_group_goes_to_its_rank_with_its_shape_and_attempt() -> None:
    machine = _ready()
    _give(machine, _ticket(3, attempt=2))
    (held,), _ = machine.take(8)
    (send,) = machine.finish(held, PIXELS, 77, 0.5, 1.0)
    assert isinstance(send, Send)
    assert send.peer == R0
    assert send.message == Result(index=3, attempt=2, shape=(4, 4, 5, 3), crc32=77, seconds=0.5)
    assert send.payload == PIXELS
    assert machine.finish(held, PIXELS, 77, 0.5, 1.0) == [], "a group is finished once"


def test_a_ticket_that_cannot_be_made_is_given_back_with_the_reason() -> None:
    machine = _ready()
    _give(machine, _ticket(3, attempt=1))
    (held,), _ = machine.take(8)
    (send,) = machine.fail(held, "no scheduler X")
    assert isinstance(send, Send)
    assert send.message == Nack(index=3, attempt=1, reason="no scheduler X", retryable=True)
    assert _sent(machine.tick(1.0), Heartbeat) == [Heartbeat(held=())]


def test_nothing_begins_while_as_many_bytes_as_the_credit_wait_for_an_answer() -> None:
    machine = _ready(credit_bytes=2 * RECIPE.nbytes)
    _give(machine, *[_ticket(index) for index in range(4)])
    for index in range(2):
        (held,), _ = machine.take(4)
        machine.finish(held, PIXELS, 0, 0.1, 0.0)
        assert machine.unacknowledged_bytes == (index + 1) * RECIPE.nbytes
    assert machine.take(4) == ([], [])
    machine.on_message(R0, HEADER, Ack(index=0, attempt=0), 0.1)
    assert _indices(machine.take(4)[0]) == [2]


def test_a_refused_group_no_longer_holds_the_engine_back() -> None:
    machine = _ready(credit_bytes=RECIPE.nbytes)
    _give(machine, _ticket(0), _ticket(1))
    (held,), _ = machine.take(4)
    machine.finish(held, PIXELS, 0, 0.1, 0.0)
    machine.on_message(R0, HEADER, Nack(index=0, attempt=0, reason="stale", retryable=False), 0.1)
    assert machine.unacknowledged_bytes == 0
    assert _indices(machine.take(4)[0]) == [1]


# --- heartbeats --------------------------------------------------------------------------------------


def test_heartbeats_name_what_is_queued_running_and_sent() -> None:
    machine = _ready()
    _give(machine, *[_ticket(index) for index in range(4)])
    batch, _ = machine.take(8)
    machine.finish(batch[0], PIXELS, 0, 0.1, 0.5)
    assert _sent(machine.tick(1.0), Heartbeat) == [Heartbeat(held=(0, 1, 2, 3))]
    machine.on_message(R0, HEADER, Ack(index=0, attempt=0), 1.1)
    assert _sent(machine.tick(2.0), Heartbeat) == [Heartbeat(held=(1, 2, 3))]


def test_heartbeats_name_to_each_rank_only_its_own_tickets() -> None:
    machine = _machine()
    machine.on_message(R0, HEADER, _welcome(0, (RANK0, RANK1)), 0.0)
    machine.on_message(R1, HEADER, _welcome(1, (RANK0, RANK1)), 0.0)
    _give(machine, _ticket(0), peer=R0)
    _give(machine, _ticket(1), peer=R1)
    said = {a.peer: a.message for a in machine.tick(5.0) if isinstance(a, Send)}
    assert said == {R0: Heartbeat(held=(0,)), R1: Heartbeat(held=(1,))}


def test_a_group_that_was_lost_on_its_way_is_not_named_for_ever() -> None:
    machine = _ready()
    _give(machine, _ticket(0))
    (held,), _ = machine.take(4)
    machine.finish(held, PIXELS, 0, 0.1, 0.0)
    named = []
    for second in range(1, 40):
        machine.on_message(R0, HEADER, Heartbeat(held=(0,)), float(second))
        named += [message.held for message in _sent(machine.tick(float(second)), Heartbeat)]
    assert (0,) in named, "while it may still arrive its lease lives"
    assert named[-1] == (), "then the rank must be able to give it to another"


def test_a_queued_ticket_that_the_rank_took_back_is_forgotten() -> None:
    machine = _ready()
    _give(machine, _ticket(0), _ticket(1), _ticket(2))
    machine.on_message(R0, HEADER, Heartbeat(held=(1,)), 1.0)
    assert _indices(machine.take(100)[0]) == [1]


def test_the_heartbeat_of_one_rank_says_nothing_about_anothers_tickets() -> None:
    machine = _machine()
    machine.on_message(R0, HEADER, _welcome(0, (RANK0, RANK1)), 0.0)
    machine.on_message(R1, HEADER, _welcome(1, (RANK0, RANK1)), 0.0)
    _give(machine, _ticket(1), peer=R1)
    machine.on_message(R0, HEADER, Heartbeat(held=()), 1.0)
    assert machine.num_queued == 1


# --- lives -------------------------------------------------------------------------------------------


def test_a_silent_rank_is_greeted_anew_and_its_tickets_are_forgotten() -> None:
    machine = _ready()
    _give(machine, _ticket(0), _ticket(1))
    (held, _), _ = machine.take(8)
    actions = machine.tick(10.5)
    assert _sent(actions, Hello) == [Hello(producer="ann", manifest=MANIFEST)]
    assert machine.links[R0].state is LinkState.HELLO
    assert not machine.connected
    assert machine.num_queued == 0
    assert machine.finish(held, PIXELS, 0, 0.1, 11.0) == []


def test_a_new_life_of_the_rank_makes_the_old_ones_tickets_void() -> None:
    machine = _ready()
    _give(machine, _ticket(0), _ticket(1))
    (held, _), _ = machine.take(8)
    new = Header(run="run", incarnation=6)
    actions = machine.on_message(R0, new, Nack(index=-1, attempt=0, reason="say HELLO", retryable=True), 1.0)
    assert not any(isinstance(action, Finished) for action in actions)
    assert _sent(machine.tick(2.0), Hello), "it says HELLO at its next turn, not a lease later"
    machine.on_message(R0, new, _welcome(), 2.1)
    assert machine.header(R0) == new
    assert machine.num_queued == 0
    assert machine.finish(held, PIXELS, 0, 0.1, 3.0) == []


def test_what_an_earlier_life_still_says_is_not_heard() -> None:
    machine = _machine()
    machine.on_message(R0, Header(run="run", incarnation=6), _welcome(), 0.0)
    old = HEADER
    for message in (
        Tickets(tickets=(_ticket(0),)),
        Bye(reason="over"),
        Nack(index=-1, attempt=0, reason="say HELLO", retryable=True),
    ):
        machine.on_message(R0, old, message, 1.0)
    assert machine.connected
    assert machine.num_queued == 0


def test_tickets_before_a_welcome_are_not_taken() -> None:
    machine = _machine()
    _give(machine, _ticket(0))
    assert machine.num_queued == 0


def test_unknown_producer_makes_it_say_hello_again() -> None:
    machine = _ready()
    _give(machine, _ticket(0))
    machine.on_message(R0, HEADER, Nack(index=-1, attempt=0, reason="unknown producer", retryable=True), 0.5)
    assert machine.num_queued == 0
    assert _sent(machine.tick(1.5), Hello)


def test_a_refused_message_that_is_not_to_be_repeated_changes_nothing() -> None:
    machine = _ready()
    _give(machine, _ticket(0))
    machine.on_message(R0, HEADER, Nack(index=-1, attempt=0, reason="truncated", retryable=False), 0.5)
    assert machine.num_queued == 1
    assert machine.connected


def test_leave_says_bye_where_it_was_welcome_and_holds_nothing_any_more() -> None:
    machine = _machine()
    machine.on_message(R0, HEADER, _welcome(0, (RANK0, RANK1)), 0.0)
    _give(machine, _ticket(0), _ticket(1))
    (held, _), _ = machine.take(8)
    actions = machine.leave("drained")
    assert [(a.peer, a.message) for a in actions if isinstance(a, Send)] == [(R0, Bye(reason="drained"))]
    assert machine.finish(held, PIXELS, 0, 0.1, 1.0) == []
    assert machine.num_queued == 0
    assert machine.tick(100.0) == []
