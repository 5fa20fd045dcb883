"""A rank whose socket, state machine and stream are the real ones, and which trains on nothing.

`python -m tests.faults.light_rank JSON`, with the fields of `RankPlan`. It takes groups as fast as it is told to,
checks every pixel against the pure function of its ticket, and writes what it sees line by line to `events`. It goes on
until the file `enough` is there, so that a test need not guess how long its fault will take.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from penstock.config.process import configure_logging, run
from penstock.consumer.config import StreamConfig
from penstock.consumer.group import Group
from penstock.consumer.stream import GroupStream
from penstock.consumer.watch import ProgressWatch
from penstock.protocol.admission import Expectation
from penstock.protocol.dispatcher import Patience
from penstock.protocol.errors import RunError
from penstock.protocol.keys import read_trainer_keys
from penstock.protocol.rank_machine import RankMachine
from penstock.protocol.sockets import RankSocket
from penstock.protocol.tickets import Ticket
from tests.faults.workload import Workload, pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class RankPlan:
    """What a light rank does."""

    endpoints: list[str]
    """Addresses of all ranks; this one binds that at `rank`."""
    events: str
    """Path of the file that gets one JSON line for each step."""
    go: str
    """Path of the file whose coming ends the pause."""
    enough: str
    """Path of the file whose coming ends the plan: what is asked for by then is still consumed."""
    bind: str = ""
    """What this one binds, where that is another than producers dial."""
    keys: str = ""
    """Folder of keys; empty for plain links."""
    rank: int = 0
    run_id: str = "faults"
    incarnation: int = 1
    order: str = "ticket"
    num_groups: int = 0
    """Groups to consume; 0: until `enough`."""
    first_index: int = 0
    stride: int = 1
    """Distance between this rank's global indices."""
    groups_per_step: int = 4
    step_s: float = 0.02
    pause_at_step: int = -1
    """The training thread stands still before this step until the file `go` is there."""
    window_groups: int = 24
    window_bytes: int = 1 << 30
    heartbeat_s: float = 0.1
    lease_s: float = 1.0
    max_attempts: int = 4
    cold_start_s: float = 300.0
    producer_timeout_s: float = 40.0
    warmup_timeout_s: float = 60.0
    stall_report_s: float = 1.0
    check: bool = True
    """Whether the pixels must be those of the pure function; a real model's are only written down."""
    workload: dict[str, Any] = field(default_factory=dict)


class Events:
    """The file that the test reads while we live."""

    def __init__(self, path: str) -> None:
        self._file = Path(path).open("a", buffering=1)  # noqa: SIM115 - lives as long as the process

    def write(self, event: str, **facts: object) -> None:
        self._file.write(json.dumps({"event": event, "at": time.monotonic()} | facts) + "\n")


class LightRank:
    """One life of a rank."""

    def __init__(self, plan: RankPlan) -> None:
        self._plan = plan
        self._workload = Workload(**plan.workload)
        self._events = Events(plan.events)
        socket = self._socket = RankSocket(
            plan.bind or plan.endpoints[plan.rank],
            group_bytes=self._workload.group_bytes,
            keys=read_trainer_keys(Path(plan.keys)) if plan.keys else None,
        )
        self._machine = RankMachine(
            run_id=plan.run_id,
            incarnation=plan.incarnation,
            rank=plan.rank,
            endpoints=tuple(plan.endpoints),
            keys=(socket.key,) * len(plan.endpoints) if plan.keys else (),
            expects=Expectation(
                model_digest=self._workload.model_digest if plan.check else None,
                manifest_digest=None,
                same_engine=False,
            ),
            order=plan.order,  # type: ignore[arg-type]
            window_groups=plan.window_groups,
            window_bytes=plan.window_bytes,
            patience=Patience(
                heartbeat_s=plan.heartbeat_s,
                lease_s=plan.lease_s,
                max_attempts=plan.max_attempts,
                cold_start_s=plan.cold_start_s,
            ),
        )
        config = StreamConfig(
            endpoint=plan.endpoints[plan.rank],
            window_groups=plan.window_groups,
            window_bytes=plan.window_bytes,
            producer_timeout_s=plan.producer_timeout_s,
            warmup_timeout_s=plan.warmup_timeout_s,
            heartbeat_s=plan.heartbeat_s,
            lease_s=plan.lease_s,
            max_attempts=plan.max_attempts,
            stall_report_s=plan.stall_report_s,
        )
        self._stream = GroupStream(socket, self._machine, config)
        self._num_planned = self._num_consumed = 0
        self._limit: float = plan.num_groups or inf

    def live(self) -> None:
        """Consume what is planned, then say goodbye."""
        why = "it failed"
        self._stream.start()
        self._events.write("bound", rss=_rss(), endpoint=self._socket.endpoint)
        try:
            self._consume()
            why = "the run is over"
        finally:
            self._stream.close(why)
            self._events.write("end", **self._statistics())

    def _consume(self) -> None:
        plan = self._plan
        if not plan.check:
            manifest = self._stream.wait_for_engine()
            self._workload = Workload(**plan.workload | {"model_digest": manifest.model_digest})
        self._stream.ask(self._tickets(), lambda ticket: self._replace(ticket))
        with ProgressWatch(plan.rank, plan.stall_report_s, 0, self._stream.waiting) as watch:
            self._train(watch)
        if (extra := self._stream.poll()) is not None:
            raise RunError(f"a group that nobody waits for: {extra.ticket.key}")

    def _train(self, watch: ProgressWatch) -> None:
        plan, step = self._plan, 0
        while self._num_consumed < self._limit:
            if step == plan.pause_at_step:
                self._pause()
            self._take_step(step)
            if Path(plan.enough).exists():
                # The window holds no more than this, and the stream one ticket that waits for room in it.
                self._limit = min(self._limit, self._num_consumed + plan.window_groups + 1)
            else:
                time.sleep(plan.step_s)
            watch.done(step)
            step += 1

    def _take_step(self, step: int) -> None:
        num_groups = min(self._plan.groups_per_step, int(min(self._limit - self._num_consumed, 1 << 20)))
        groups = [self._stream.get() for _ in range(num_groups)]
        self._num_consumed += num_groups
        self._note(step, groups)

    def _tickets(self) -> Iterator[Ticket]:
        """Run by the stream's thread."""
        while self._num_planned < self._limit:
            index = self._plan.first_index + self._plan.stride * self._num_planned
            self._num_planned += 1
            yield self._workload.ticket(index, self._plan.rank)

    def _replace(self, ticket: Ticket) -> Ticket:
        return self._workload.ticket(ticket.index, ticket.rank, ticket.stand_in + 1)

    def _pause(self) -> None:
        self._events.write("paused")
        deadline = time.monotonic() + 120
        while not Path(self._plan.go).exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        self._events.write("goes on")

    def _note(self, step: int, groups: list[Group]) -> None:
        for record in self._stream.quarantined():
            self._events.write("quarantined", index=record.ticket.index, reason=record.reason)
        digests = [] if self._plan.check else [hashlib.sha256(group.images.tobytes()).hexdigest() for group in groups]
        for group in groups if self._plan.check else []:
            if not np.array_equal(group.images, pixels(group.ticket.recipe)):
                raise RunError(f"ticket {group.ticket.index} of {group.producer} has other bits than it should")
        self._events.write(
            "step",
            step=step,
            indices=[group.ticket.index for group in groups],
            producers=[group.producer for group in groups],
            attempts=[group.ticket.attempt for group in groups],
            stand_ins=[group.ticket.stand_in for group in groups],
            digests=digests,
            fds=len(os.listdir("/proc/self/fd")),
            rss=_rss(),
            peers=len(self._machine.peers),
            outstanding=self._machine.num_outstanding,
        )

    def _statistics(self) -> dict[str, object]:
        machine = self._machine
        return {
            "rejects": [[reason, producer, count] for (reason, producer), count in machine.rejects.counts.items()],
            "expired": machine.expired,
            "hedged": machine.hedged,
            "num_planned": self._num_planned,
            "rss": _rss(),
        }


def _rss() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main(argument: str) -> int:
    """Live once. Returns the exit status."""
    plan = RankPlan(**json.loads(argument))
    configure_logging(f"rank {plan.rank}")
    LightRank(plan).live()
    return 0


if __name__ == "__main__":
    run(lambda: main(sys.argv[1]))
