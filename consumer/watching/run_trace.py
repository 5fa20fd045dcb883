"""A run's trace: what every rank and every producer has done of late, in one file that is written as the run ends.

It is written however the run ends: over, by an error, by Ctrl-C or SIGTERM. So it rests on no collective: each rank but
the first leaves what it has in the run's folder, and the first asks for it there and waits a moment. A rank that hangs
in a collective, which is where the first rank's end finds most, is not kept from it: a thread of its own answers.
"""

import json
import logging
import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from accelerate import Accelerator

from penstock.config.process import Terminated
from penstock.consumer.run_folder import RunFolder
from penstock.consumer.watching.producer_traces import ProducerTrace, ProducerTraces
from penstock.consumer.watching.rank_clocks import compare_clocks
from penstock.telemetry.recorder import RING, Event, Flow, Recorder
from penstock.telemetry.trace_file import ProcessTrace, write_trace

_log = logging.getLogger(__name__)

_PATIENCE_S = 5.0
"""How long rank 0 waits for what the others leave."""
_ASKED_EVERY_S = 0.25
"""How often the others look whether rank 0 asks."""
_LEEWAY_NS = 10 * 10**9
"""How far outside of the run's time a producer's events may be said to be: further is a lie, and would make of the run
a dot on its own time line."""
_DRIFT = 15e-6
"""How fast two clocks may move apart, at most: the frequency tolerance of RFC 5905, section 7.3."""
_MAIN_THREAD = "training"


class RunTrace:
    """The trace of one rank. A context manager; it must outlive the stream.

    Args:
        path: of the file that rank 0 writes; empty for no trace.
        folder: of the run.
        rank, world_size: whose.
    """

    def __init__(self, path: str, folder: RunFolder, rank: int, world_size: int) -> None:
        self._path = Path(os.path.expanduser(path)) if path else None
        self._folder = folder
        self._rank, self._world_size = rank, world_size
        self.recorder = Recorder(RING if path else 0)
        """Of this rank."""
        self.producers = ProducerTraces()
        """What producers have told of; the stream's."""
        self._difference_ns, self._uncertainty_ns = 0, 0
        self._begun_ns = self._aligned_ns = time.monotonic_ns()
        self._is_over = threading.Event()
        self._leaver = threading.Thread(target=self._leave_part, name="trace", daemon=True)

    @property
    def asks_producers(self) -> bool:
        """Whether producers are to tell this rank of their events."""
        return self._path is not None and self._rank == 0

    def align(self, accelerator: Accelerator) -> None:
        """Learn how far this rank's clock is from rank 0's. All ranks call it together."""
        if self._path is not None and self._world_size > 1:
            self._difference_ns, self._uncertainty_ns = compare_clocks(accelerator)
            self._aligned_ns = time.monotonic_ns()

    def __enter__(self) -> Self:
        if self._path is not None and self._rank:
            self._leaver.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._path is None:
            return
        if self._rank:
            self._is_over.set()
            self._leaver.join(_PATIENCE_S)
            return
        try:
            try:
                self._write(self._path)
            finally:
                self._question.unlink(missing_ok=True)
        except OSError as failure:
            # Whatever the run ends by is not to be hidden by this.
            _log.warning("the trace could not be written: %s", failure)

    def _part(self, rank: int) -> Path:
        return self._folder.path / f"trace-{self._folder.incarnation}-{rank}.json"

    @property
    def _question(self) -> Path:
        """What rank 0 asks the others by: a file that is there."""
        return self._folder.path / f"trace-{self._folder.incarnation}-asked"

    def _leave_part(self) -> None:
        """As this rank's end comes, or rank 0's, leave what it has; on a thread of its own."""
        while not self._is_over.wait(_ASKED_EVERY_S) and not self._question.exists():
            pass
        try:
            self._write_part()
        except OSError as failure:
            _log.warning("this rank's part of the trace could not be written: %s", failure)

    def _write_part(self) -> None:
        since_ns = time.monotonic_ns() - self._aligned_ns if self._uncertainty_ns else 0  # of one machine: one clock
        part = {
            "difference_ns": self._difference_ns,
            "uncertainty_ns": self._uncertainty_ns + round(_DRIFT * since_ns),
            "events": [
                (event.stage, event.begin_ns, event.end_ns, event.thread, event.ticket, event.attempt, event.flow)
                for event in self.recorder.drain()
            ],
        }
        scratch = self._part(self._rank).with_suffix(".json.tmp")
        scratch.write_text(json.dumps(part))
        os.replace(scratch, self._part(self._rank))

    def _wait_for_parts(self) -> None:
        """Until all other ranks have left theirs, for a while."""
        if self._world_size > 1:
            self._question.touch()
        deadline = time.monotonic() + _PATIENCE_S
        lacking = set(range(1, self._world_size))
        while lacking and time.monotonic() < deadline:
            lacking = {rank for rank in lacking if not self._part(rank).exists()}
            time.sleep(0.05 if lacking else 0.0)

    def _take_part(self, rank: int) -> ProcessTrace | None:
        """What another rank has left; None where it has left nothing."""
        place = self._part(rank)
        if not place.exists():
            _log.warning("the trace lacks rank %d, which has left nothing", rank)
            return None
        part = json.loads(place.read_text())
        place.unlink()
        events = [
            Event(stage, begin_ns, end_ns, thread, ticket, attempt, Flow(flow))
            for stage, begin_ns, end_ns, thread, ticket, attempt, flow in part.pop("events")
        ]
        return ProcessTrace(name=f"rank {rank}", main_thread=_MAIN_THREAD, events=events, **part)

    def _of_producer(self, producer: ProducerTrace) -> ProcessTrace:
        """What a producer has told, but for what cannot be."""
        events = producer.events(self._begun_ns - _LEEWAY_NS, time.monotonic_ns() + _LEEWAY_NS)
        if (num_wrong := producer.num_events - len(events)) > 0:
            _log.warning("the trace leaves out %d events of %s, outside of the run's time", num_wrong, producer.name)
        uncertainty_ns = producer.uncertainty_ns
        return ProcessTrace(
            name=f"producer {producer.name}", main_thread="engine", events=events, uncertainty_ns=uncertainty_ns
        )

    def _write(self, path: Path) -> None:
        processes = [ProcessTrace(name="rank 0", main_thread=_MAIN_THREAD, events=self.recorder.drain())]
        interrupted: BaseException | None = None
        try:
            self._wait_for_parts()
        except (KeyboardInterrupt, Terminated) as signal_:
            # A launcher that sees one rank end asks the others to, which are about to anyway: no reason to lose it all.
            interrupted = signal_
        parts = [self._take_part(rank) for rank in range(1, self._world_size)]
        processes += [part for part in parts if part is not None]
        processes += [self._of_producer(producer) for producer in self.producers.producers]
        count = write_trace(path, processes, {"run": self._folder.run_id})
        of = f"{count} events of {len(processes)} processes"
        _log.info("the trace, %s, is in %s; https://ui.perfetto.dev opens it", of, path)
        if interrupted is not None:
            raise interrupted
