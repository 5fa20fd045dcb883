"""What a producer tells a rank of its events, and when."""

from collections.abc import Callable

from penstock.producer.tracing import trace_of
from penstock.protocol.errors import ModelError
from penstock.protocol.limits import MAX_INT, MAX_TRACE_EVENTS, MAX_TRACE_KINDS
from penstock.telemetry.recorder import Event, Flow
from tests.producer.live_rank import LiveRank, RunningService, StubEngine

OpenRank = Callable[..., LiveRank]


def _told(rank: LiveRank) -> list[tuple[str, str, int]]:
    """(stage, thread, ticket) of all events that the rank was told of."""
    found = []
    for traced in rank.traced:
        events = traced.trace.events
        for kind, ticket in zip(events[::5], events[3::5], strict=True):
            found.append((traced.trace.stages[kind], traced.trace.threads[kind], ticket))
    return found


def test_times_are_those_of_the_rank_s_clock() -> None:
    events = [
        Event("held", 1000, 1000, "penstock-io", 3, 1, Flow.STEP),
        Event("generate", 2000, 2700, "MainThread"),
        Event("held", 3000, 3000, "penstock-io", 4, 0, Flow.STEP),
    ]
    trace = trace_of(events, 500_000, 40)
    assert trace.uncertainty_ns == 40
    assert list(zip(trace.stages, trace.threads, trace.flows, strict=True)) == [
        ("held", "penstock-io", 2),
        ("generate", "MainThread", 0),
    ]
    assert trace.events == (0, 501_000, 0, 3, 1, 1, 502_000, 700, -1, 0, 0, 503_000, 0, 4, 0)


def test_what_no_message_can_tell_is_left_out() -> None:
    """A clock that lies, or an engine that invents a stage for every image, must not end the producer."""
    events = [Event(f"stage {number}", 1000, 2000, "io") for number in range(MAX_TRACE_EVENTS)]
    assert len(trace_of(events, 0, 0).events) == 5 * MAX_TRACE_KINDS
    assert trace_of(events, -5000, 0).events == ()
    assert trace_of(events, MAX_INT, 0).events == ()


def test_a_rank_that_traces_hears_of_every_event_the_last_before_the_farewell(open_rank: OpenRank) -> None:
    rank, engine = open_rank(traces=True), StubEngine()
    rank.plan(*range(4))
    running = RunningService(rank.socket.endpoint, engine)
    rank.run_until(lambda: bool(rank.traced))
    rank.plan(*range(4, 8))
    rank.run_until(lambda: len(rank.delivered) == 8)
    rank.say_bye()
    rank.run_until(lambda: not rank.machine.peers)
    assert running.end() is None
    told = _told(rank)
    for stage, thread in (("held", "penstock-io"), ("encode", "penstock-finish"), ("send", "penstock-io")):
        assert sorted(ticket for name, at, ticket in told if (name, at) == (stage, thread)) == list(range(8))
    assert {name for name, _, _ in told} >= {"generate", "wait_tickets", "finish", "begin", "acknowledged"}


def test_a_rank_that_does_not_trace_hears_of_nothing(open_rank: OpenRank) -> None:
    rank = open_rank()
    rank.plan(*range(4))
    running = RunningService(rank.socket.endpoint, StubEngine())
    rank.run_until(lambda: len(rank.delivered) == 4)
    (peer,) = rank.machine.peers.values()
    rank.run_until(lambda: peer.status is not None and peer.status.busy_s > 0)
    rank.say_bye()
    assert running.end() is None
    assert rank.traced == []
    assert rank.machine.rejects.counts.total() == 0
    assert not running.service.recorder.is_tracing
    assert running.service.recorder.taken()["encode"].count == 4


def test_a_rank_is_told_that_the_engine_works_while_it_makes_its_first_batch(open_rank: OpenRank) -> None:
    rank, engine = open_rank(), StubEngine()
    engine.gate.clear()
    rank.plan(*range(4))
    running = RunningService(rank.socket.endpoint, engine)
    rank.run_until(engine.working.is_set)
    (peer,) = rank.machine.peers.values()
    rank.run_until(lambda: peer.status is not None and peer.status.worked_s > 0.2)
    assert peer.status is not None
    assert peer.status.busy_s == 0, "nothing is finished"
    engine.gate.set()
    rank.run_until(lambda: peer.status is not None and peer.status.busy_s > 0)
    rank.run_until(lambda: peer.status is not None and peer.status.unfinished_s == 0)
    rank.say_bye()
    assert running.end() is None


def test_what_the_engine_cannot_make_takes_its_time_too(open_rank: OpenRank) -> None:
    rank, engine = open_rank(max_attempts=1), StubEngine()
    engine.error = ModelError("too long a prompt")
    rank.plan(0)
    running = RunningService(rank.socket.endpoint, engine, batch_wait_s=0.0)
    rank.run_until(lambda: bool(rank.quarantined))
    rank.say_bye()
    assert running.end() is None
    before = engine.work.busy_s
    assert before > 0
    assert engine.work.busy_s == before, "the time stands still"


def test_a_rank_is_told_how_long_the_engine_was_busy_and_what_it_did(open_rank: OpenRank) -> None:
    rank, engine = open_rank(), StubEngine()
    engine.work.flops, engine.work.matrix_flops_per_s = 7e12, 9e12
    rank.plan(*range(4))
    running = RunningService(rank.socket.endpoint, engine)
    rank.run_until(lambda: len(rank.delivered) == 4)
    (peer,) = rank.machine.peers.values()
    rank.run_until(lambda: peer.status is not None and peer.status.busy_s > 0)
    status = peer.status
    assert status is not None
    assert (status.flops, status.matrix_flops_per_s) == (7e12, 9e12)
    assert status.busy_s == engine.work.seconds
    assert status.clock_ns > 0
    rank.say_bye()
    assert running.end() is None
