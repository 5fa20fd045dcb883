"""The trace file keeps the rules of its format, and tells what happened when."""

import random
from collections.abc import Iterator
from decimal import Decimal
from errno import ENOSPC
from itertools import chain
from pathlib import Path

import pytest

from penstock.telemetry.recorder import Event, Flow
from penstock.telemetry.trace_file import ProcessTrace, write_trace
from tests.telemetry import trace_rules

US, MS = 1_000, 1_000_000
BASE = 400 * 24 * 3600 * 10**9
"""A machine that has been up for a year: as a float, its microseconds have no fraction left."""


def _rank(*events: Event, difference_ns: int = 0, uncertainty_ns: int = 0, name: str = "rank 0") -> ProcessTrace:
    return ProcessTrace(
        name=name,
        main_thread="training",
        events=events,
        difference_ns=difference_ns,
        uncertainty_ns=uncertainty_ns,
    )


def _mark(stage: str, at_ns: int, ticket: int, flow: Flow, thread: str = "penstock-stream") -> Event:
    return Event(stage, at_ns, at_ns, thread, ticket, 0, flow)


def _ticket_s_way(ticket: int, at_ns: int, producer_clock_ns: int) -> tuple[list[Event], list[Event]]:
    """A rank's and a producer's events about one ticket, a millisecond from one to the next."""
    rank = [
        _mark("issue", at_ns, ticket, Flow.BEGIN),
        Event("receive", at_ns + 4 * MS, at_ns + 5 * MS, "penstock-stream", ticket, 0, Flow.STEP),
        _mark("enter", at_ns + 6 * MS, ticket, Flow.STEP, "penstock-prefetch"),
        _mark("use", at_ns + 7 * MS, ticket, Flow.END, "MainThread"),
    ]
    there = at_ns + producer_clock_ns
    producer = [
        _mark("held", there + MS, ticket, Flow.STEP, "penstock-io"),
        Event("encode", there + 2 * MS, there + 3 * MS, "penstock-finish", ticket, 0, Flow.STEP),
        Event("send", there + 3 * MS, there + 3 * MS + 5 * US, "penstock-io", ticket, 0, Flow.STEP),
    ]
    return rank, producer


def test_times_are_exact_and_begin_with_the_first(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    events = (Event("collate", BASE + 1, BASE + 1_234_568, "MainThread"), Event("copy", BASE + 7, BASE + 8, "other"))
    assert write_trace(path, [_rank(*events)], {"run": "r"}) == 2
    trace = trace_rules.read(path)
    assert trace_rules.violations(trace) == []
    times = {event["name"]: (event["ts"], event["dur"]) for event in trace["traceEvents"] if event["ph"] == "X"}
    assert times == {
        "collate": (Decimal("0.000"), Decimal("1234.567")),
        "copy": (Decimal("0.006"), Decimal("0.001")),
    }
    assert trace["otherData"]["run"] == "r"
    assert list(tmp_path.iterdir()) == [path], "nothing else is left"


def test_processes_and_threads_have_their_names(tmp_path: Path) -> None:
    rank, producer = _ticket_s_way(0, BASE, 0)
    of_producer = ProcessTrace(name='producer "ann"', main_thread="engine", events=producer, uncertainty_ns=12 * US)
    write_trace(tmp_path / "t.json.gz", [_rank(*rank), of_producer], {})
    trace = trace_rules.read(tmp_path / "t.json.gz")
    assert trace_rules.violations(trace) == []
    numbers = trace_rules.processes(trace)
    assert numbers.keys() == {"rank 0", 'producer "ann"'}
    assert {*trace_rules.threads(trace, numbers["rank 0"]).values()} == {"stream", "prefetch", "training"}
    assert {*trace_rules.threads(trace, numbers['producer "ann"']).values()} == {"io", "finish"}
    assert trace["otherData"]["uncertainty"]['producer "ann"'] == "± 12 µs"


def test_a_ticket_s_way_goes_through_all_processes_and_clocks(tmp_path: Path) -> None:
    ahead = 77 * 10**9
    ranks, producers = zip(*(_ticket_s_way(ticket, BASE + ticket * 3 * MS, ahead) for ticket in range(20)), strict=True)
    producer = _rank(*chain(*producers), difference_ns=-ahead, uncertainty_ns=100 * US, name="producer ann")
    write_trace(tmp_path / "t.json", [_rank(*chain(*ranks)), producer], {})
    trace = trace_rules.read(tmp_path / "t.json")
    assert trace_rules.violations(trace) == []
    way = [(1, "issue"), (2, "held"), (2, "encode"), (2, "send"), (1, "receive"), (1, "enter"), (1, "use")]
    assert trace_rules.ways(trace) == [way] * 20
    slices = [event for event in trace["traceEvents"] if event["ph"] == "X" and event["args"]["ticket"] == 3]
    held, issue = (next(event["ts"] for event in slices if event["name"] == name) for name in ("held", "issue"))
    assert held - issue == 1000, "a millisecond: the clocks' difference is taken out exactly"


@pytest.mark.parametrize("error_ns", [1500 * US, -1500 * US])
def test_where_a_clock_is_wrong_within_its_uncertainty_no_effect_comes_before_its_cause(
    tmp_path: Path, error_ns: int
) -> None:
    rank, producer = _ticket_s_way(0, BASE, 0)
    wrong = _rank(*producer, difference_ns=error_ns, uncertainty_ns=2 * MS, name="producer ann")
    write_trace(tmp_path / "t.json", [_rank(*rank), wrong], {})
    [way] = trace_rules.ways(trace_rules.read(tmp_path / "t.json"))
    assert [stage for _, stage in way] == ["issue", "held", "encode", "send", "receive", "enter", "use"]


def test_a_clock_that_is_surer_than_that_is_believed(tmp_path: Path) -> None:
    rank, producer = _ticket_s_way(0, BASE, 0)
    wrong = _rank(*producer, difference_ns=-5 * MS, uncertainty_ns=10 * US, name="producer ann")
    write_trace(tmp_path / "t.json", [_rank(*rank), wrong], {})
    [way] = trace_rules.ways(trace_rules.read(tmp_path / "t.json"))
    assert way[0] == (2, "held")


def test_a_way_of_which_the_ring_has_lost_the_beginning_begins_where_it_is_seen(tmp_path: Path) -> None:
    rank, producer = _ticket_s_way(0, BASE, 0)
    others = [_mark("issue", BASE, 1, Flow.BEGIN), _mark("acknowledged", BASE + 9, 1, Flow.NONE)]
    write_trace(tmp_path / "t.json", [_rank(*rank[2:], *others), _rank(*producer[1:], name="producer ann")], {})
    trace = trace_rules.read(tmp_path / "t.json")
    assert trace_rules.violations(trace) == []
    assert trace_rules.ways(trace) == [[(2, "encode"), (2, "send"), (1, "enter"), (1, "use")]], "one point is no way"


def test_whatever_a_thread_tells_becomes_nested_slices(tmp_path: Path) -> None:
    """Moments at one time, before, in and at the end of work; and what overlaps, which a broken producer may tell."""
    rng = random.Random(0)
    for number in range(30):
        events = []
        for index in range(200):
            begin = BASE + rng.randrange(5_000)
            flow = rng.choice([Flow.NONE, Flow.STEP])
            lasts = rng.choice([0, 0, 0, 1, 7, 900, 4000])
            events.append(Event("work", begin, begin + lasts, rng.choice("ab"), index % 40, 0, flow))
        write_trace(tmp_path / "t.json", [_rank(*events)], {})
        trace = trace_rules.read(tmp_path / "t.json")
        assert trace_rules.violations(trace) == [], number
        assert sum(event["ph"] == "X" for event in trace["traceEvents"]) == 200


def test_an_empty_trace_is_one(tmp_path: Path) -> None:
    assert write_trace(tmp_path / "t.json", [_rank()], {}) == 0
    assert trace_rules.violations(trace_rules.read(tmp_path / "t.json")) == []


def test_the_rules_find_what_is_wrong() -> None:
    """Else nothing above would mean anything."""
    piece = {"ph": "X", "name": "a", "cat": "c", "pid": 1, "tid": 1, "ts": 0, "dur": 10}
    flow = {"name": "ticket", "cat": "ticket", "id": 1, "pid": 1, "tid": 1, "bp": "e"}
    good = [piece, flow | {"ph": "s", "ts": 0}, flow | {"ph": "f", "ts": 5}]
    assert trace_rules.violations({"displayTimeUnit": "ms", "traceEvents": good}) == []
    for bad in (
        [piece, piece | {"ts": 5}],
        [piece | {"dur": 0}],
        [piece | {"ts": -1}],
        [piece | {"ph": "Z"}],
        good[:2],
        [piece, flow | {"ph": "s", "ts": 5}, flow | {"ph": "f", "ts": 0}],
        [piece, flow | {"ph": "s", "ts": 0}, flow | {"ph": "f", "ts": 10}],
        [piece, flow | {"ph": "s", "ts": 0}, flow | {"ph": "f", "ts": 5, "bp": "n"}],
        [{"ph": "M", "name": "colour", "pid": 1, "args": {}}],
    ):
        assert trace_rules.violations({"displayTimeUnit": "ms", "traceEvents": bad}) != [], bad


def test_a_disk_that_is_full_keeps_the_trace_that_was_there_and_no_half_of_another(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text("of yesterday")

    class Full(tuple[Event, ...]):
        def __iter__(self) -> Iterator[Event]:
            if (tmp_path / "trace.json.tmp").exists():
                raise OSError(ENOSPC, "No space left on device")
            return super().__iter__()

    full = ProcessTrace(name="rank 0", main_thread="training", events=Full((_mark("issue", BASE, 0, Flow.BEGIN),)))
    with pytest.raises(OSError, match="No space left"):
        write_trace(path, [full], {})
    assert [found.name for found in tmp_path.iterdir()] == ["trace.json"]
    assert path.read_text() == "of yesterday"
