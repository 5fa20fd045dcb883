"""How a producer finds the ranks, and finds them again: several addresses, names, moved trainers, changed keys."""

from dataclasses import replace

import pytest

from penstock.protocol.actions import Action, Connect, Disconnect, Finished, Send
from penstock.protocol.messages import Bye, Header, Heartbeat, Hello, Tickets, Welcome
from tests.protocol.bench import LIFE, R0, R1, RANK0, RANK1, Bench, indices, sent, welcome
from tests.protocol.samples import a_ticket

OTHER0, OTHER1 = "tcp://10.0.0.2:1", "tcp://10.0.0.2:2"
O0 = OTHER0.encode()
NEXT_LIFE = Header(run="run", incarnation=6)
LONG_S = 12.0
"""More than a lease."""


def dialled(actions: list[Action]) -> list[Connect | Disconnect]:
    return [action for action in actions if isinstance(action, Connect | Disconnect)]


def with_two_addresses(ranks: int = 1) -> Bench:
    """Serves all ranks, the first at the first of the addresses that it was given."""
    bench = Bench(ranks=0)
    assert bench.machine.connect(OTHER0) == [Connect(OTHER0)]
    endpoints = (RANK0, RANK1)[:ranks]
    for rank in range(ranks):
        bench.hear(welcome(rank, endpoints), peer=(R0, R1)[rank])
    bench.machine.free()
    return bench


def test_one_address_of_several_is_enough() -> None:
    bench = Bench(ranks=0)
    bench.machine.connect(OTHER0)
    actions = bench.machine.tick(0.0)
    assert [len(sent(actions, Hello, peer)) for peer in (R0, O0)] == [1, 1]
    assert dialled(bench.hear(welcome(1, (RANK0, OTHER0)), peer=O0)) == [], "the other one is dialled already"
    assert bench.machine.connected
    bench.hear(welcome(0, (RANK0, OTHER0)))
    bench.machine.free()
    bench.give(a_ticket(0))
    bench.give(a_ticket(1), peer=O0)
    assert indices(bench.take()) == [0, 1]


def test_a_rank_that_answers_at_two_addresses_is_served_at_one() -> None:
    bench = with_two_addresses()
    bench.give(a_ticket(0))
    answer = bench.hear(welcome(), peer=O0)
    assert answer == [Send(O0, Bye(reason=f"rank 0 is served at {RANK0}"))]
    assert bench.machine.header(O0) == LIFE, "the rank hears it"
    assert dialled(bench.wait(2.0, R0)) == [Disconnect(OTHER0)]
    assert indices(bench.take()) == [0], "what the first gave is still held"
    assert bench.hear(Heartbeat(held=()), peer=O0) == [], "what was on its way is not heard"
    assert bench.machine.header(O0) == Header()


def test_a_trainer_that_moved_is_followed_and_its_old_addresses_are_given_up() -> None:
    bench = with_two_addresses(ranks=2)
    bench.wait(LONG_S)
    assert not bench.machine.connected
    moved = bench.hear(welcome(0, (OTHER0, OTHER1)), peer=O0, header=NEXT_LIFE)
    assert dialled(moved) == [Connect(OTHER1)]
    assert set(dialled(bench.wait(1.0))) == {Disconnect(RANK0), Disconnect(RANK1)}
    assert set(bench.machine.links) == {O0, OTHER1.encode()}


def test_a_rank_that_cannot_be_dialled_keeps_nobody_from_the_addresses_that_were_given() -> None:
    bench = with_two_addresses(ranks=2)
    bench.hear(welcome(0, (RANK0, RANK1)), peer=O0)
    assert dialled(bench.wait(2.0, R0)) == [Disconnect(OTHER0)]
    bench.machine.cannot_connect(RANK1)
    assert Connect(OTHER0) in dialled(bench.wait(LONG_S))


def test_addresses_that_were_given_are_tried_again_when_everybody_is_silent() -> None:
    bench = with_two_addresses()
    bench.hear(welcome(), peer=O0)
    assert dialled(bench.wait(2.0, R0)) == [Disconnect(OTHER0)]
    assert dialled(bench.wait(LONG_S)) == [Connect(OTHER0)]
    assert sent(bench.wait(1.0), Hello, O0)


def test_a_rank_that_said_goodbye_is_greeted_again_once_one_is_silent_that_did_not() -> None:
    """A rank that crashes takes the others along: they say goodbye, it does not. Their next life knows nobody."""
    bench = Bench(ranks=2)
    bench.hear(Bye(reason="another rank has ended"))
    assert sent(bench.wait(2.0, R1), Hello, R0) == [], "the other rank talks: it would say that this one is back"
    assert sent(bench.wait(LONG_S), Hello, R0)
    bench.hear(welcome(0, (RANK0, RANK1)), header=NEXT_LIFE)
    bench.machine.free()
    bench.hear(Tickets(tickets=(a_ticket(0),)), header=NEXT_LIFE)
    assert indices(bench.take()) == [0]


def test_a_rank_that_was_only_named_is_greeted_again_too() -> None:
    """Rank 0 is the first to answer in each life, and not always the one whose address a producer was given."""
    bench = Bench(ranks=2)
    bench.hear(Bye(reason="another rank has ended"), peer=R1)
    assert sent(bench.wait(2.0, R0), Hello, R1) == []
    assert sent(bench.wait(LONG_S), Hello, R1)


def test_a_run_that_is_over_is_not_dialled_again() -> None:
    bench = with_two_addresses()
    bench.hear(welcome(), peer=O0)
    bench.wait(2.0, R0)
    assert any(isinstance(action, Finished) for action in bench.hear(Bye(reason="the run is over")))
    assert dialled(bench.wait(LONG_S)) == []


def test_a_fleet_of_many_lives_leaves_no_connection_behind() -> None:
    bench = Bench(ranks=2)
    for life in range(6, 56):
        bench.wait(LONG_S)
        endpoints = (RANK0, f"tcp://127.0.0.1:{1000 + life}")
        header = Header(run="run", incarnation=life)
        bench.hear(welcome(0, endpoints), header=header)
        bench.hear(welcome(1, endpoints), peer=endpoints[1].encode(), header=header)
        bench.wait(1.0, R0, endpoints[1].encode())
        assert set(bench.machine.links) == {R0, endpoints[1].encode()}


def test_an_earlier_life_that_still_answers_is_left() -> None:
    bench = with_two_addresses()
    bench.hear(welcome(), header=NEXT_LIFE)
    [answer] = bench.hear(welcome(0, (OTHER0,)), peer=O0, header=LIFE)
    assert isinstance(answer, Send)
    assert isinstance(answer.message, Bye)
    assert bench.machine.header(R0) == NEXT_LIFE


def test_a_later_life_elsewhere_takes_the_place_of_one_that_only_seems_to_be_there() -> None:
    bench = with_two_addresses()
    bench.give(a_ticket(0))
    bench.hear(welcome(0, (OTHER0,)), peer=O0, header=NEXT_LIFE)
    assert bench.take() == [], "what the earlier life asked for is void"
    assert Disconnect(RANK0) in bench.wait(1.0, O0)


# --- keys -------------------------------------------------------------------------------------------------------------


def keyed(rank: int, *keys: str) -> Welcome:
    return replace(welcome(rank, (RANK0, RANK1)), keys=tuple(key * 40 for key in keys))


def test_each_rank_is_dialled_with_the_key_that_its_run_names() -> None:
    bench = Bench(ranks=0)
    assert dialled(bench.hear(keyed(0, "a", "b"))) == [Connect(RANK1, "b" * 40)]
    bench.hear(keyed(1, "a", "b"), peer=R1)
    next_life = bench.hear(keyed(1, "a", "b"), peer=R1, header=NEXT_LIFE)
    assert dialled(next_life) == [], "rank 0 has the same key in its next life"


@pytest.mark.parametrize("seems_to_be_there", [True, False])
def test_a_rank_with_another_key_at_its_old_address_is_dialled_anew(seems_to_be_there: bool) -> None:
    bench = Bench(ranks=0)
    bench.hear(keyed(0, "a", "b"))
    bench.hear(keyed(1, "a", "b"), peer=R1)
    if not seems_to_be_there:
        bench.wait(LONG_S, R0)
    assert dialled(bench.hear(keyed(0, "a", "c"), header=NEXT_LIFE)) == [Connect(RANK1, "c" * 40)]
    assert sent(bench.wait(2.0, R0), Hello, R1)


# --- names ------------------------------------------------------------------------------------------------------------


def test_a_rank_that_no_hello_reaches_is_dialled_anew_every_three_seconds() -> None:
    bench = Bench(ranks=0)
    at = []
    for tenth in range(100):
        actions = bench.machine.tick(tenth / 10)
        at += [tenth / 10 for action in actions if action == Connect(RANK0)]
        if sent(actions, Hello):
            bench.machine.not_sent(R0)
    assert at == pytest.approx([3.0, 6.0, 9.0], abs=0.11)


def test_a_rank_that_hellos_reach_is_left_to_answer_when_it_can() -> None:
    assert dialled(Bench(ranks=0).wait(60.0)) == []


def test_a_hello_that_was_for_a_rank_that_is_left_is_nobody_s_business() -> None:
    Bench(ranks=0).machine.not_sent(b"tcp://nobody:1")
