"""A producer that is asked to end: what was begun arrives, the rest goes back, and it is all bounded."""

import time
from collections.abc import Callable, Sequence

import pytest

from penstock.producer.engine import Pending
from penstock.protocol.fleet import PeerState
from penstock.protocol.tickets import Ticket
from tests.producer.live_rank import GROUPS_PER_BATCH, LiveRank, RunningService, StubEngine

OpenRank = Callable[..., LiveRank]


def _busy(open_rank: OpenRank, *, tickets: int = 10, **changes: float) -> tuple[LiveRank, StubEngine, RunningService]:
    """A producer that works on its first batch and holds more tickets, if there are any."""
    rank, engine = open_rank(lease_s=60.0), StubEngine()
    engine.gate.clear()
    rank.plan(*range(tickets))
    running = RunningService(rank.socket.endpoint, engine, **changes)
    rank.run_until(engine.working.is_set)
    return rank, engine, running


def test_an_idle_producer_that_drains_says_so_and_leaves(open_rank: OpenRank) -> None:
    rank = open_rank()
    running = RunningService(rank.socket.endpoint, StubEngine())
    rank.run_until(lambda: rank.states() == {"ann": PeerState.READY})
    assert running.service.drain()
    rank.run_until(lambda: running.ended() and not rank.machine.peers)
    assert running.end() is None
    assert any("ann drains" in note for note in rank.notes)
    assert any("ann left: drained" in note for note in rank.notes)


def test_what_was_begun_is_finished_and_the_rest_goes_back_at_once(open_rank: OpenRank) -> None:
    rank, engine, running = _busy(open_rank)
    assert running.service.drain()
    rank.run_until(lambda: rank.machine.num_outstanding == GROUPS_PER_BATCH)
    assert rank.states() == {"ann": PeerState.DRAINING}
    bob = RunningService(rank.socket.endpoint, StubEngine(), name="bob", batch_wait_s=0.0)
    rank.run_until(lambda: len(rank.delivered) == 10 - GROUPS_PER_BATCH)
    engine.gate.set()
    rank.run_until(lambda: running.ended() and len(rank.delivered) == 10)
    assert running.end() is None
    made = sorted(delivered.producer for delivered in rank.delivered.values())
    assert made == ["ann"] * GROUPS_PER_BATCH + ["bob"] * (10 - GROUPS_PER_BATCH)
    assert engine.batches == [8]
    rank.say_bye()
    assert bob.end() is None


def test_a_draining_producer_waits_until_its_groups_are_acknowledged(open_rank: OpenRank) -> None:
    rank, engine, running = _busy(open_rank, tickets=4)
    running.service.drain()
    engine.gate.set()
    # The rank neither reads nor answers now.
    running.thread.join(timeout=1.5)
    assert not running.ended()
    rank.run_until(running.ended)
    assert running.end() is None
    assert set(rank.delivered) == {0, 1, 2, 3}


def test_no_batch_begins_after_the_signal(open_rank: OpenRank, monkeypatch: pytest.MonkeyPatch) -> None:
    rank, engine, running = _busy(open_rank, tickets=12)
    # The thread that hands the queue back comes late.
    monkeypatch.setattr(running.service._machine, "drain", lambda reason: [])
    generate = engine.generate

    def generate_under_a_signal(tickets: Sequence[Ticket]) -> Pending:
        running.service.drain()
        return generate(tickets)

    engine.generate = generate_under_a_signal  # type: ignore[method-assign]
    engine.gate.set()
    rank.run_until(running.ended)
    assert len(engine.batches) == 2, "the one that ran, and the one in which the signal came"
    assert running.end() is None


def test_a_rank_that_is_gone_is_waited_for_no_longer_than_the_drain_may_take(open_rank: OpenRank) -> None:
    rank, engine, running = _busy(open_rank, drain_timeout_s=0.5)
    running.service.drain()
    rank.socket.close()
    engine.gate.set()
    begun = time.monotonic()
    assert running.end() is None
    assert time.monotonic() - begun < 8, "the lease is 60 s"


def test_a_batch_that_takes_longer_than_the_drain_may_take_is_given_up_without_blame(open_rank: OpenRank) -> None:
    rank, engine, running = _busy(open_rank, drain_timeout_s=0.5)
    running.service.drain()
    rank.run_until(lambda: not rank.machine.peers)
    assert not running.ended(), "the engine still holds the thread"
    assert not any("failed" in note for note in rank.notes)
    bob = RunningService(rank.socket.endpoint, StubEngine(), name="bob", batch_wait_s=0.0)
    rank.run_until(lambda: len(rank.delivered) == 10)
    engine.gate.set()
    assert running.end() is None
    rank.say_bye()
    assert bob.end() is None


def test_there_is_nothing_to_drain_before_the_engine_is_loaded(open_rank: OpenRank) -> None:
    rank, engine = open_rank(), StubEngine()
    engine.load_gate.clear()
    running = RunningService(rank.socket.endpoint, engine)
    rank.run_until(lambda: bool(rank.machine.peers))
    assert not running.service.drain(), "whoever asked must end it by force"
    engine.load_gate.set()
    rank.run_until(lambda: rank.states() == {"ann": PeerState.READY})
    assert running.service.drain()
    rank.run_until(running.ended)
    assert running.end() is None


def test_a_producer_without_a_trainer_drains_at_once() -> None:
    engine = StubEngine()
    running = RunningService("tcp://127.0.0.1:9", engine)
    deadline = time.monotonic() + 10
    while not running.service.drain():
        assert time.monotonic() < deadline
    begun = time.monotonic()
    assert running.end() is None
    assert time.monotonic() - begun < 5
