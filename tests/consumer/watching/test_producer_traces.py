"""What a rank keeps of the events that producers tell of: the last of each, in bounded memory."""

from penstock.consumer.watching.producer_traces import ProducerTraces
from penstock.protocol.actions import Traced
from penstock.protocol.limits import MAX_PRODUCERS, MAX_TRACE_EVENTS
from penstock.protocol.watching import Trace
from penstock.telemetry.recorder import RING, Event, Flow


def _trace(*events: int, uncertainty_ns: int = 5, stage: str = "encode") -> Trace:
    return Trace(
        uncertainty_ns=uncertainty_ns,
        stages=("held", stage),
        threads=("penstock-io", "penstock-finish"),
        flows=(2, 0),
        events=events,
    )


def _full(begin: int) -> Trace:
    return _trace(*(number for at in range(begin, begin + MAX_TRACE_EVENTS) for number in (1, at, 1, at, 0)))


def test_events_are_those_that_were_told() -> None:
    traces = ProducerTraces()
    traces.add(Traced(b"1", "ann", _trace(0, 70, 0, 3, 1, 1, 80, 9, -1, 0)))
    traces.add(Traced(b"2", "ann", _trace(1, 90, 1, 4, 0, uncertainty_ns=8)))
    traces.add(Traced(b"1", "ann", _trace(1, 95, 2, 5, 0, uncertainty_ns=7)))
    first, second = traces.producers
    assert (first.name, first.uncertainty_ns) == ("ann", 7)
    assert (second.name, second.uncertainty_ns) == ("ann", 8), "two connections, whatever they are called"
    assert first.events(0, 2**63) == [
        Event("held", 70, 70, "penstock-io", 3, 1, Flow.STEP),
        Event("encode", 80, 89, "penstock-finish"),
        Event("encode", 95, 97, "penstock-finish", 5),
    ]


def test_the_last_events_of_a_producer_are_kept() -> None:
    traces = ProducerTraces()
    for number in range(RING // MAX_TRACE_EVENTS + 10):
        traces.add(Traced(b"1", "ann", _full(number * MAX_TRACE_EVENTS)))
    (ann,) = traces.producers
    assert ann.num_events == RING
    assert ann.events(0, 2**63)[0].begin_ns == 10 * MAX_TRACE_EVENTS


def test_a_flood_pushes_out_its_own_and_not_what_others_told() -> None:
    traces = ProducerTraces(max_bytes=400_000)
    traces.add(Traced(b"1", "ann", _full(0)))
    for number in range(500):
        traces.add(Traced(b"2", "mallory", _trace(1, number, 0, 0, 0, stage="x" * 200)))
    ann, mallory = traces.producers
    assert ann.num_events == MAX_TRACE_EVENTS
    assert 0 < mallory.num_events < 400_000 / 800, "its words count too"
    assert ann.nbytes + mallory.nbytes <= 400_000


def test_messages_without_events_and_connections_without_end_take_no_memory() -> None:
    traces = ProducerTraces()
    traces.add(Traced(b"1", "ann", _trace()))
    assert traces.producers == []
    for number in range(MAX_PRODUCERS + 5):
        traces.add(Traced(number.to_bytes(4), f"p{number}", _trace(1, 1, 1, 1, 0)))
    assert len(traces.producers) == MAX_PRODUCERS
    assert traces.producers[0].name == "p5"
    assert traces._nbytes == sum(producer.nbytes for producer in traces.producers)
