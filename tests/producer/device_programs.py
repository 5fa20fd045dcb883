"""A real `penstock produce --devices` as a process, before a rank in the test's hand."""

import itertools
import signal
from collections.abc import Callable
from pathlib import Path

import psutil

from penstock.producer.paced_engine import MODEL_DIGEST
from tests.faults.programs import Program, wait_until
from tests.producer.live_rank import LiveRank

NAMES = ("fleet-0", "fleet-1")


class Fleet(Program):
    """Two paced producers on `cpu,cpu`, and their parent."""

    def __init__(self, endpoint: str, folder: Path, *flags: str) -> None:
        command = ["-m", "penstock.producer", "--devices", "cpu,cpu", "--name", "fleet", "--connect", endpoint]
        command += ["--backend", "paced", "--paced-images-per-s", "400", "--batch-images", "8", "--batch-wait-s", "0"]
        self.seen: set[int] = set()
        """Every process that was a child at any time."""
        super().__init__([*command, *flags], folder / "fleet.log")

    def child(self, name: str) -> psutil.Process | None:
        """The process that a producer is now; None while there is none."""
        for process in psutil.Process(self.process.pid).children():
            try:
                words = process.cmdline()
            except psutil.NoSuchProcess:
                continue
            if words[-2:] == ["--name", name]:
                self.seen.add(process.pid)
                return process
        return None

    def pid(self, name: str) -> int:
        """The process id of a producer that runs."""
        process = self.child(name)
        assert process is not None, self.output
        return process.pid

    def states(self, name: str) -> list[str]:
        """What the log has called this producer, in order."""
        said = [line.partition(f": {name} on cpu ")[2] for line in self.output.splitlines()]
        return [words.partition("; ")[0] for words in said if words]


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has reaped does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Work:
    """A rank that always has tickets."""

    def __init__(self, open_rank: Callable[..., LiveRank], digest: str = MODEL_DIGEST) -> None:
        self.rank = open_rank(digest=digest)
        self._next = itertools.count()
        self._marked: set[int] = set()

    @property
    def makers(self) -> set[str]:
        """Who made any of the groups that came since the mark."""
        return {done.producer for index, done in self.rank.delivered.items() if index not in self._marked}

    def mark(self) -> None:
        """From here on count anew."""
        self._marked = set(self.rank.delivered)

    def until(self, condition: Callable[[], bool]) -> None:
        """Hand out tickets until this comes true."""

        def happened() -> bool:
            if self.rank.machine.num_outstanding < 32:
                self.rank.plan(*(next(self._next) for _ in range(32)))
            return condition()

        self.rank.run_until(happened)

    def until_all_serve(self) -> None:
        """Until each producer has made a group since the mark."""
        self.until(lambda: set(NAMES) <= self.makers)


def gone(pids: set[int]) -> None:
    """Wait until none of them is left."""
    wait_until(lambda: not any(alive(pid) for pid in pids), f"none of {pids} is left")


SIGNALS = [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
