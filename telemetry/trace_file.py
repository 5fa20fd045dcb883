"""Writes what processes have done as one trace: https://ui.perfetto.dev and chrome://tracing open it.

The format is Chrome's trace events as JSON objects. A piece of work is a complete event (`X`), a moment one of a
microsecond at most, so that something can be bound to it. A ticket's way from process to process is a flow: `s` where
it begins, `t` on its way, `f` where it ends, each bound to the slice that encloses its time (`"bp": "e"`), which begins
at that time. Perfetto wants the slices of a thread to be nested, so what overlaps is cut. Format:
https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

import gzip
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TextIO

from penstock.telemetry.recorder import Event, Flow

_MARK_NS: Final = 1000
"""How long a moment is shown to last, at most."""

_Point = tuple[int, int, int, int]
"""Where a flow passes: time (ns), the rank of its flow among equal times, process, thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessTrace:
    """What one process has done."""

    name: str
    main_thread: str
    """What its main thread does."""
    events: Sequence[Event]
    difference_ns: int = 0
    """The clock of the trace minus that of the events."""
    uncertainty_ns: int = 0
    """How wrong that may be."""


@dataclass(slots=True)
class _Slice:
    """A piece of work as it is drawn."""

    event: Event
    begin_ns: int
    end_ns: int


def write_trace(path: Path, processes: Sequence[ProcessTrace], about: Mapping[str, str]) -> int:
    """Write the trace of all processes, in their order; where the name ends in `.gz`, compressed. Returns its events.

    Args:
        path: of the file; what is there is replaced when the whole is written.
        processes: on any clocks.
        about: what else stands in the file, for people.

    Raises OSError.
    """
    shifts = _shifts(processes)
    begins = [event.begin_ns + shift for of, shift in zip(processes, shifts, strict=True) for event in of.events]
    origin_ns = min(begins, default=0)
    uncertain = {process.name: f"± {process.uncertainty_ns / 1000:.0f} µs" for process in processes}
    other = json.dumps({**about, "clock": "the first process's monotonic clock", "uncertainty": uncertain})
    scratch = path.with_name(f"{path.name}.tmp")
    try:
        with _open(scratch, compressed=path.suffix == ".gz") as file:
            file.write(f'{{"displayTimeUnit":"ms","otherData":{other},"traceEvents":[\n')
            _write_processes(file, processes, [shift_ns - origin_ns for shift_ns in shifts])
            # What is said twice does no harm, and ends the list without a comma.
            file.write('{"ph":"M","name":"process_sort_index","pid":1,"args":{"sort_index":1}}\n]}\n')
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
    return len(begins)


def _open(path: Path, *, compressed: bool) -> TextIO:
    if compressed:
        # Quick rather than small: whoever has pressed Ctrl-C waits for it.
        return gzip.open(path, "wt", encoding="utf-8", compresslevel=1)
    return path.open("w", encoding="utf-8")


def _write_processes(file: TextIO, processes: Sequence[ProcessTrace], shifts_ns: Sequence[int]) -> None:
    """All slices, and the ways through them."""
    flows: defaultdict[tuple[int, int], list[_Point]] = defaultdict(list)
    for pid, (process, shift_ns) in enumerate(zip(processes, shifts_ns, strict=True), start=1):
        _write_process(file, pid, process, shift_ns, flows)
    for number, points in enumerate(flows.values(), start=1):
        _write_flow(file, number, sorted(points))


def _write_process(
    file: TextIO, pid: int, process: ProcessTrace, shift_ns: int, flows: dict[tuple[int, int], list[_Point]]
) -> None:
    labels = f"clock ± {process.uncertainty_ns / 1000:.0f} µs" if process.uncertainty_ns else ""
    about = {"process_name": {"name": process.name}, "process_sort_index": {"sort_index": pid}}
    about |= {"process_labels": {"labels": labels}} if labels else {}
    for name, args in about.items():
        _write(file, {"ph": "M", "name": name, "pid": pid, "args": args})
    threads: defaultdict[str, list[Event]] = defaultdict(list)
    for event in process.events:
        threads[event.thread].append(event)
    for tid, (thread, events) in enumerate(threads.items(), start=1):
        shown = process.main_thread if thread == "MainThread" else thread.removeprefix("penstock-")
        _write(file, {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": shown}})
        for piece in _nested(events):
            event = piece.event
            args = f',"args":{{"ticket":{event.ticket},"attempt":{event.attempt}}}' if event.ticket >= 0 else ""
            begin_ns = piece.begin_ns + shift_ns
            file.write(
                f'{{"ph":"X","name":{json.dumps(event.stage)},"cat":"stage","pid":{pid},"tid":{tid},'
                f'"ts":{_us(begin_ns)},"dur":{_us(piece.end_ns - piece.begin_ns)}{args}}},\n'
            )
            if event.flow and event.ticket >= 0:
                flows[event.ticket, event.attempt].append((begin_ns, int(event.flow), pid, tid))


def _write_flow(file: TextIO, number: int, points: Sequence[_Point]) -> None:
    """One ticket's way. Where its beginning or its end is not in the trace, it begins and ends where it is seen."""
    if len(points) < 2:
        return
    for phase, (at_ns, _, pid, tid) in zip(("s", *"t" * (len(points) - 2), "f"), points, strict=True):
        file.write(
            f'{{"ph":"{phase}","name":"ticket","cat":"ticket","id":{number},"bp":"e",'
            f'"pid":{pid},"tid":{tid},"ts":{_us(at_ns)}}},\n'
        )


def _write(file: TextIO, event: Mapping[str, object]) -> None:
    file.write(f"{json.dumps(event, ensure_ascii=False)},\n")


def _us(nanoseconds: int) -> str:
    """Microseconds, exact: a float of a machine that is up for a year would not be."""
    sign, nanoseconds = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    return f"{sign}{nanoseconds // 1000}.{nanoseconds % 1000:03d}"


def _nested(events: Sequence[Event]) -> Iterator[_Slice]:
    """The slices of one thread: each within the one that it began in, and moments between what they stand between."""
    ordered = sorted(events, key=lambda event: (event.begin_ns, event.begin_ns == event.end_ns, -event.end_ns))
    open_slices: list[_Slice] = []
    free_from_ns = 0  # where the last moment ends: nothing may begin within it
    for place, event in enumerate(ordered):
        begin_ns = max(event.begin_ns, free_from_ns)
        end_ns = max(event.end_ns, begin_ns + 1)
        if event.begin_ns == event.end_ns:
            next_ns = ordered[place + 1].begin_ns if place + 1 < len(ordered) else begin_ns + _MARK_NS
            end_ns = free_from_ns = max(begin_ns + 1, min(begin_ns + _MARK_NS, next_ns))
        while open_slices and open_slices[-1].end_ns <= begin_ns:
            open_slices.pop()
        if open_slices:
            end_ns = min(end_ns, open_slices[-1].end_ns)
        piece = _Slice(event, begin_ns, end_ns)
        open_slices.append(piece)
        yield piece


def _shifts(processes: Sequence[ProcessTrace]) -> list[int]:
    """What to add to each process's times: its clock's difference, and as much more as makes no effect come too early.

    A ticket is issued before it is held, and a group sent before it is received; where the clocks say otherwise they
    are wrong, and a process is moved by no more than they may be.
    """
    shifts = [process.difference_ns for process in processes]
    issued, received = (_first_times(processes, stage) for stage in ("issue", "receive"))
    for here, process in enumerate(processes):
        if not process.uncertainty_ns:
            continue
        alone = (replace(process, difference_ns=shifts[here]),)
        held, sent = (_first_times(alone, stage) for stage in ("held", "send"))
        early = max([0, *(issued[key] + 1 - at_ns for key, at_ns in held.items() if key in issued)])
        late = max([0, *(at_ns + 1 - received[key] for key, at_ns in sent.items() if key in received)])
        wanted = early if early >= late else -late
        shifts[here] += max(-process.uncertainty_ns, min(process.uncertainty_ns, wanted))
    return shifts


def _first_times(processes: Sequence[ProcessTrace], stage: str) -> dict[tuple[int, int], int]:
    """When each attempt first came to a stage, by (ticket, attempt); ns on the clock of the trace."""
    times: dict[tuple[int, int], int] = {}
    for process in processes:
        for event in process.events:
            if event.stage == stage and event.flow is not Flow.NONE:
                times.setdefault((event.ticket, event.attempt), event.begin_ns + process.difference_ns)
    return times
