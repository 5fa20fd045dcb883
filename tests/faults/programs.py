"""Processes of the tests: started, watched through their log and their events, and ended."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from penstock.config.process import UNTIL_STDIN_CLOSES
from tests.faults.light_producer import ProducerPlan
from tests.faults.light_rank import RankPlan

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 60.0
"""Longer than anything takes on a busy machine; no test waits for it but one that fails."""
POLL_S = 0.01

Event = dict[str, Any]


def wait_until(condition: Callable[[], bool], what: str, within_s: float = WAIT_S) -> float:
    """Wait for a condition; the time on the monotonic clock when it was seen. AssertionError where it never comes."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"{within_s:.0f} s were not enough for this: {what}"
        time.sleep(POLL_S)
    return time.monotonic()


class Program:
    """A process of ours, in a session of its own, with its log and the events that it writes.

    Args:
        command: arguments of this Python.
        log: gets its output.
        events: where it writes its events, if it does.
        ends_with_us: it is a program of Penstock, and ends when its standard input closes, however we go.
        inside: a command that starts it somewhere else, and becomes it.
    """

    def __init__(
        self,
        command: list[str],
        log: Path,
        events: Path | None = None,
        *,
        ends_with_us: bool = True,
        inside: Sequence[str] = (),
    ) -> None:
        self.log = log
        self._events_path = events
        self._events: list[Event] = []
        self._num_read = 0
        env = os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1", "HF_HUB_OFFLINE": "1"}
        env |= {UNTIL_STDIN_CLOSES: "1"} if ends_with_us else {}
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [*inside, sys.executable, *command],
                cwd=ROOT,
                env=env,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def events(self, kind: str) -> list[Event]:
        """Every event of a kind so far."""
        if self._events_path is not None and self._events_path.exists():
            with self._events_path.open("rb") as file:
                file.seek(self._num_read)
                whole, newline, _ = file.read().rpartition(b"\n")
            self._num_read += len(whole) + len(newline)
            self._events += [json.loads(line) for line in whole.splitlines()]
        return [event for event in self._events if event["event"] == kind]

    def until(self, condition: Callable[[], bool], what: str, within_s: float = WAIT_S) -> float:
        """As `wait_until`; fails at once where this process ends before."""

        def happened() -> bool:
            if condition():
                return True
            assert self.alive or condition(), f"ended before this came true: {what}\n{self.output}"
            return False

        try:
            return wait_until(happened, what, within_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.output}") from None

    def until_log(self, words: str, within_s: float = WAIT_S) -> float:
        """Wait for these words in the log."""
        return self.until(lambda: words in self.output, f"the log says {words!r}", within_s)

    def send(self, number: signal.Signals) -> float:
        """Send a signal; the time on the monotonic clock."""
        self.process.send_signal(number)
        return time.monotonic()

    def end(self, within_s: float = WAIT_S) -> int:
        """Wait for the end; its exit status."""
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {within_s:.0f} s:\n{self.output}") from None

    def kill(self) -> None:
        """End the process and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def private_bytes(self) -> int:
        """Memory that would be free if the process ended (its unique set)."""
        return int(psutil.Process(self.process.pid).memory_full_info().uss)


class LightProducer(Program):
    """`light_producer` as a process."""

    def __init__(self, plan: ProducerPlan, folder: Path, inside: Sequence[str] = ()) -> None:
        self.plan = plan
        self.name = plan.name
        command = ["-m", "tests.faults.light_producer", json.dumps(asdict(plan))]
        super().__init__(command, folder / f"{plan.name}.log", Path(plan.events), inside=inside)

    @property
    def begun(self) -> list[tuple[int, int]]:
        """(index, attempt) of every ticket that it has begun."""
        return [(index, attempt) for batch in self.events("batch") for index, attempt in batch["begun"]]

    @property
    def running(self) -> list[int]:
        """Indices of the batch that it began last."""
        return [index for index, _ in self.events("batch")[-1]["begun"]]

    def until_begun(self, num_batches: int = 1) -> float:
        """Wait until it is in the middle of a batch, the n-th."""
        return self.until(lambda: len(self.events("batch")) >= num_batches, f"{self.name} begins batch {num_batches}")


class LightRank(Program):
    """`light_rank` as a process."""

    def __init__(self, plan: RankPlan, folder: Path, inside: Sequence[str] = ()) -> None:
        self.plan = plan
        command = ["-m", "tests.faults.light_rank", json.dumps(asdict(plan))]
        name = f"rank-{plan.rank}-{plan.incarnation}"
        super().__init__(command, folder / f"{name}.log", Path(plan.events), inside=inside)

    @property
    def steps(self) -> list[Event]:
        """One event for each step so far."""
        return self.events("step")

    @property
    def groups(self) -> list[tuple[int, str, int]]:
        """(index, producer, attempt) of every group consumed so far, in order."""
        return [
            triple
            for step in self.steps
            for triple in zip(step["indices"], step["producers"], step["attempts"], strict=True)
        ]

    @property
    def indices(self) -> list[int]:
        return [index for index, _, _ in self.groups]

    @property
    def makers(self) -> Counter[str]:
        """Groups consumed, by producer."""
        return Counter(producer for _, producer, _ in self.groups)

    @property
    def reissued(self) -> int:
        """Groups consumed that were handed out more than once."""
        return sum(attempt > 0 for _, _, attempt in self.groups)

    def until_groups(self, num_groups: int, within_s: float = WAIT_S) -> float:
        """Wait until so many groups were consumed."""
        return self.until(lambda: len(self.groups) >= num_groups, f"{num_groups} groups are consumed", within_s)

    def until_consumed(self, indices: Iterable[int]) -> float:
        """Wait until one of these was consumed; the time at which the first one was."""
        wanted = set(indices)
        self.until(lambda: not wanted.isdisjoint(self.indices), f"one of {sorted(wanted)} is consumed")
        return next(float(step["at"]) for step in self.steps if not wanted.isdisjoint(step["indices"]))

    def until_all_consumed(self, indices: Iterable[int]) -> None:
        """Wait until each of these was consumed."""
        wanted = set(indices)
        self.until(lambda: wanted.issubset(self.indices), f"all of {sorted(wanted)} are consumed")

    def until_reissued(self, after: float) -> float:
        """Wait for a group, consumed after that time, that was handed out more than once; when it was consumed."""

        def again() -> list[float]:
            return [float(step["at"]) for step in self.steps if step["at"] > after and any(step["attempts"])]

        self.until(lambda: bool(again()), "a ticket that was handed out again is made")
        return again()[0]

    def until_made_by(self, name: str, more_than: int = 0) -> float:
        """Wait until a producer has made more than so many of the groups consumed."""
        return self.until(lambda: self.makers[name] > more_than, f"{name} makes a group")

    def go_on(self) -> None:
        """End the pause."""
        Path(self.plan.go).touch()

    def finish(self, within_s: float = WAIT_S) -> str:
        """Say that it is enough, and wait for a good end: nothing lost, nothing twice, and in ticket order as planned.

        Returns that in words.
        """
        Path(self.plan.enough).touch()
        status = self.end(within_s)
        assert status == 0, self.output
        assert "Traceback" not in self.output
        first, stride, num_planned = self.plan.first_index, self.plan.stride, self.statistics["num_planned"]
        planned = list(range(first, first + stride * num_planned, stride))
        assert sorted(self.indices) == planned
        if self.plan.order == "ticket":
            assert self.indices == planned
        return f"{len(self.indices)}/{len(planned)} groups, bit-equal"

    @property
    def statistics(self) -> Event:
        """What it counted; there after its end."""
        return self.events("end")[0]

    def rejects(self, reason: str, producer: str | None = None) -> int:
        """Messages that it dropped for this reason, of one producer or of all."""
        return sum(
            count for word, name, count in self.statistics["rejects"] if word == reason and producer in (None, name)
        )
