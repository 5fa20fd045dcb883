"""The trainings: two at a time, each beside a producer of its own that remembers its images.

A training that is done is not done again: its folder keeps what the tables need (flags, summary, encoder), and counts
as done where the flags are those that are asked for.
"""

import json
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
from harness import BenchmarkError

from paper.arms import Arm, Budget

NUM_SLOTS = 2
RUN_S = 1800.0
"""The longest that one training may take, its images among it, on a busy machine."""
_FLAGS = "flags.json"


@dataclass(frozen=True, slots=True)
class Training:
    """One arm with one seed, and where it lies."""

    arm: Arm
    seed: int
    budget: Budget
    work: Path

    @property
    def run_dir(self) -> Path:
        """The run's folder, whole once `is_done`."""
        return self.work / f"seed{self.seed}" / self.arm.folder

    @property
    def flags(self) -> list[str]:
        """The settings of `penstock train`."""
        return self.arm.flags(self.budget, self.seed)

    @property
    def is_done(self) -> bool:
        """Whether an earlier call has done it with these settings."""
        try:
            return bool(json.loads((self.run_dir / _FLAGS).read_text()) == self.flags)
        except FileNotFoundError:
            return False

    @property
    def summary(self) -> dict[str, Any]:
        """What the run said of itself; once it is done."""
        return dict(json.loads((self.run_dir / "summary.json").read_text()))

    def run(self, processes: harness.Processes, endpoint: str) -> None:
        """Train; whatever the folder held before is gone. Raises BenchmarkError."""
        unfinished = self.run_dir.with_name(self.run_dir.name + ".unfinished")
        for old in (unfinished, self.run_dir):
            shutil.rmtree(old, ignore_errors=True)
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        command = [str(harness.BIN / "penstock"), "train", *self.flags]
        command += ["--stream.endpoint", endpoint, "--run-dir", str(unfinished)]
        processes.finish(f"{self.arm.folder}-{self.seed}", command, RUN_S)
        shutil.rmtree(unfinished / "checkpoint")
        (unfinished / _FLAGS).write_text(json.dumps(self.flags))
        unfinished.rename(self.run_dir)


def train_all(units: Sequence[Sequence[Training]]) -> float:
    """Do what is not done, a unit's trainings one after another on one producer.

    Returns the seconds that it took; 0 where nothing was left to do.
    Raises BenchmarkError with the first that fails; the others of its slot are not begun.
    """
    started = time.monotonic()
    to_do = [unit for unit in units if not all(training.is_done for training in unit)]
    if not to_do:
        return 0.0
    with tempfile.TemporaryDirectory(prefix="penstock-paper-") as folder, ThreadPoolExecutor(NUM_SLOTS) as pool:
        processes = harness.Processes(Path(folder))
        local = threading.local()
        number = iter(range(NUM_SLOTS))

        def open_slot() -> str:
            """The address at which this thread's trainers listen, and a producer that waits for them."""
            if not hasattr(local, "endpoint"):
                local.endpoint = f"tcp://127.0.0.1:{_free_port()}"
                plan = json.dumps({"endpoint": local.endpoint})
                command = [sys.executable, "-m", "paper.image_memory", plan]
                processes.start(f"producer-{next(number)}", command, cwd=harness.BENCHMARKS)
            return str(local.endpoint)

        def do(unit: Sequence[Training]) -> None:
            for training in unit:
                if not training.is_done:
                    training.run(processes, open_slot())
                    seconds = time.monotonic() - started
                    print(f"{seconds:6.0f} s  seed {training.seed}  {training.arm.name}", file=sys.stderr, flush=True)

        try:
            for done in [pool.submit(do, unit) for unit in to_do]:
                done.result()
        except BenchmarkError:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            processes.kill()
    return time.monotonic() - started


def _free_port() -> int:
    """A port of loopback that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
