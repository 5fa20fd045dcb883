"""A run's trace: what every rank and every producer has done of late, in one file that is written as the run ends.

It is written however the run ends: over, by an error, by Ctrl-C or SIGTERM. So it rests on no collective: each rank but
the first leaves what it has in the run's folder, and the first waits a moment for them.
"""

import json
import logging
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from accelerate import Accelerator

from penstock.consumer.producer_traces import ProducerTraces
from penstock.consumer.rank_clocks import compare_clocks
from penstock.consumer.run_folder import RunFolder
from penstock.telemetry.recorder import RING, Event, Flow, Recorder
from penstock.telemetry.trace_file import ProcessTrace, write_trace

_log = logging.getLogger(__name__)

_PATIENCE_S = 5.0
"""How long rank 0 waits for what the others leave."""
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

    @property
    def asks_producers(self) -> bool:
        """Whether producers are to tell this rank of their events."""
        return self._path is not None and self._rank == 0

    def align(self, accelerator: Accelerator) -> None:
        """Learn how far this rank's clock is from rank 0's. All ranks call it together."""
        if self._path is not None and self._world_size > 1:
            self._difference_ns, self._uncertainty_ns = compare_clocks(accelerator)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._path is None:
            return
        try:
            if self._rank:
                self._leave_part()
            else:
                self._write(self._path)
        except OSError as failure:
            # Whatever the run ends by is not to be hidden by this.
            _log.warning("the trace could not be written: %s", failure)

    def _part(self, rank: int) -> Path:
        return self._folder.path / f"trace-{self._folder.incarnation}-{rank}.json"

    def _leave_part(self) -> None:
        part = {
            "difference_ns": self._difference_ns,
            "uncertainty_ns": self._uncertainty_ns,
            "events": [
                (event.stage, event.begin_ns, event.end_ns, event.thread, event.ticket, event.attempt, event.flow)
                for event in self.recorder.drain()
            ],
        }
        scratch = self._part(self._rank).with_suffix(".json.tmp")
        scratch.write_text(json.dumps(part))
        os.replace(scratch, self._part(self._rank))

    def _take_part(self, rank: int, deadline: float) -> ProcessTrace | None:
        """What another rank has left; None where nothing comes in time."""
        place = self._part(rank)
        while not place.exists():
            if time.monotonic() > deadline:
                _log.warning("the trace lacks rank %d: it has left nothing within %g s", rank, _PATIENCE_S)
                return None
            time.sleep(0.05)
        part = json.loads(place.read_text())
        place.unlink()
        events = [
            Event(stage, begin_ns, end_ns, thread, ticket, attempt, Flow(flow))
            for stage, begin_ns, end_ns, thread, ticket, attempt, flow in part.pop("events")
        ]
        return ProcessTrace(name=f"rank {rank}", main_thread=_MAIN_THREAD, events=events, **part)

    def _write(self, path: Path) -> None:
        processes = [ProcessTrace(name="rank 0", main_thread=_MAIN_THREAD, events=self.recorder.drain())]
        deadline = time.monotonic() + _PATIENCE_S
        parts = [self._take_part(rank, deadline) for rank in range(1, self._world_size)]
        processes += [part for part in parts if part is not None]
        processes += [
            ProcessTrace(
                name=f"producer {producer.name}",
                main_thread="engine",
                events=producer.events(),
                uncertainty_ns=producer.uncertainty_ns,
            )
            for producer in self.producers.producers
        ]
        count = write_trace(path, processes, {"run": self._folder.run_id})
        of = f"{count} events of {len(processes)} processes"
        _log.info("the trace, %s, is in %s; https://ui.perfetto.dev opens it", of, path)
