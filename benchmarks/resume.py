"""Kills a run in the middle and resumes it; compares weights and ledger with those of a run that nobody disturbed.

    python benchmarks/resume.py --json runs/bench/resume.json
    python benchmarks/resume.py --ranks 2,1,4

Both are real runs of the demo preset in ticket order, scaled down, with two producers that were started by hand. In the
disturbed one a producer is killed by SIGKILL, later the trainer; another life goes on with the producer that is left.
`--ranks` gives each life its number of ranks. Where they differ the ledger alone is compared, with that of one rank: a
sum over other ranks has other last bits.
"""

import hashlib
import json
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import harness
from harness import BIN, BenchmarkError, Processes
from rich.console import Console
from rich.table import Table
from safetensors.numpy import load_file

from penstock.consumer.ledger_reader import read_steps

LIFE_S = 240.0
"""The longest that one life may take."""
MAX_STEPS, CHECKPOINT_EVERY = 60, 10
KILL_PRODUCER_AT, KILL_TRAINER_AT = 12, 25
GROUPS_PER_STEP, LANE_GROUPS, REUSE = 8, 4, 8
SETTINGS = {
    "config": "demo",
    "order": "ticket",
    "seed": 0,
    "max-steps": MAX_STEPS,
    "checkpoint-every-steps": CHECKPOINT_EVERY,
    "groups-per-step": GROUPS_PER_STEP,
    "reservoir.capacity-groups": GROUPS_PER_STEP * LANE_GROUPS,
    "reservoir.reuse": REUSE,
    "generator.images-per-group": 4,
    "stream.window-groups": 16,
    "evaluation.data": "none",
    "fleet.local-producers": 0,
}


@dataclass(frozen=True)
class Life:
    """One process of the trainer: its number of ranks, and at which step it is killed."""

    num_ranks: int
    killed_at: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What a run has left behind."""

    steps: dict[int, tuple[int, ...]]
    encoder: str
    """SHA-256 of the encoder's tensors."""
    killed_at: list[int]
    """Steps that were begun when the trainer was killed, life by life."""
    seconds: float


def run(name: str, lives: Sequence[Life], folder: Path, *, kills_producer: bool) -> Outcome:
    """One run in as many lives, with two producers. Raises BenchmarkError where a life does not end as it should."""
    started, run_dir, logs = time.monotonic(), folder / name, folder / f"{name}-logs"
    logs.mkdir()
    processes = Processes(logs)
    endpoint = f"tcp://127.0.0.1:{_free_port()}"
    killed_at = []
    try:
        for producer in ("ann", "bob"):
            command = [str(BIN / "penstock"), "produce", "--config", "demo", "--connect", endpoint]
            processes.start(producer, [*command, "--name", producer])
        for number, life in enumerate(lives):
            extra = ["--resume"] if number else []
            kills_bob = kills_producer and number == 0
            done = _live(processes, f"trainer-{number}", life, run_dir, endpoint, extra, kills_bob)
            killed_at += [done] if life.killed_at else []
        return Outcome(read_steps(run_dir), encoder_sha256(run_dir), killed_at, time.monotonic() - started)
    finally:
        processes.kill()


def _live(
    processes: Processes, name: str, life: Life, run_dir: Path, endpoint: str, extra: list[str], kills_producer: bool
) -> int:
    """One life of the trainer, to its end or to its kill. Returns the steps that were begun by then."""
    flags = [f"--{flag}={value}" for flag, value in SETTINGS.items()]
    flags += ["--run-dir", str(run_dir), "--stream.endpoint", endpoint, *extra]
    launch = [str(BIN / "accelerate"), "launch", "--quiet", "--cpu", "--num_processes", str(life.num_ranks)]
    alone = life.num_ranks == 1
    trainer = processes.start(
        name, [str(BIN / "penstock"), "train", *flags] if alone else [*launch, "consumer", *flags]
    )
    for done in _steps_done(trainer, run_dir, life):
        if kills_producer and done >= KILL_PRODUCER_AT:
            processes.kill("bob")
            kills_producer = False
        if life.killed_at is not None and done >= life.killed_at:
            processes.kill(name)
            return len(read_steps(run_dir))
    if trainer.returncode != 0 or life.killed_at is not None:
        raise BenchmarkError(f"{name} ended with status {trainer.returncode}:\n{processes.log(name)[-3000:]}")
    return MAX_STEPS


def _steps_done(trainer: subprocess.Popen[bytes], run_dir: Path, life: Life) -> Iterator[int]:
    """Steps that the ledger shows as begun in all its ranks, until the trainer ends."""
    deadline = time.monotonic() + LIFE_S
    while trainer.poll() is None:
        if time.monotonic() > deadline:
            raise BenchmarkError(f"a life with {life.num_ranks} ranks takes longer than {LIFE_S:.0f} s")
        steps = read_steps(run_dir)
        yield sum(len(indices) >= GROUPS_PER_STEP for indices in steps.values())
        time.sleep(0.02)


def encoder_sha256(run_dir: Path) -> str:
    """SHA-256 of the encoder's tensors: names, types, shapes and bytes, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(run_dir / "encoder" / "model.safetensors").items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape}\n".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()


def uses_of(outcome: Outcome) -> Counter[tuple[int, int]]:
    """How often each (step, index) stands in the ledger."""
    return Counter((step, index) for step, indices in outcome.steps.items() for index in indices)


def broken_promises(steps: dict[int, tuple[int, ...]]) -> tuple[int, int]:
    """Uses that are missing, and uses too many, in one run, by what ticket order promises.

    Every step uses one group of each lane (the indices of one residue), and no group is used more than `REUSE` times.
    """
    lanes = sum(len({index % GROUPS_PER_STEP for index in steps.get(step, ())}) for step in range(MAX_STEPS))
    uses = Counter(index for indices in steps.values() for index in indices)
    return MAX_STEPS * GROUPS_PER_STEP - lanes, sum(max(0, number - REUSE) for number in uses.values())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def compare(whole: Outcome, resumed: Outcome) -> dict[str, object]:
    """The figures of the benchmark: the undisturbed run against the promise, the other against the undisturbed one."""
    missing, too_many = broken_promises(whole.steps)
    expected, used = uses_of(whole), uses_of(resumed)
    return {
        "weights_equal": whole.encoder == resumed.encoder,
        "ledger_equal": whole.steps == resumed.steps,
        "lost": missing + (expected - used).total(),
        "duplicated": too_many + (used - expected).total(),
        "killed_at": resumed.killed_at,
        "encoder_sha256": {"whole": whole.encoder, "resumed": resumed.encoder},
        "seconds": {"whole": round(whole.seconds, 1), "resumed": round(resumed.seconds, 1)},
    }


def print_table(result: dict[str, object], whole: Outcome, resumed: Outcome) -> None:
    """Both runs side by side, and what came of the comparison."""
    table = Table(title="A run that was killed and resumed, against one that was not")
    for column in ("", "whole", "killed and resumed"):
        table.add_column(column)
    table.add_row("killed at step", "never", ", ".join(str(step) for step in resumed.killed_at))
    table.add_row("seconds", f"{whole.seconds:.1f}", f"{resumed.seconds:.1f}")
    table.add_row("steps in the ledger", str(len(whole.steps)), str(len(resumed.steps)))
    table.add_row("SHA-256 of the encoder", *(f"{run.encoder[:16]}…" for run in (whole, resumed)))
    Console().print(table)
    for key in ("weights_equal", "ledger_equal", "lost", "duplicated"):
        if key in result:
            print(f"{key}: {json.dumps(result[key])}")


def _lives(ranks: Sequence[int]) -> list[Life]:
    """Lives of equal length with these numbers of ranks, each killed between two checkpoints, but the last."""
    length = MAX_STEPS // len(ranks)
    kills = [(number + 1) * length // CHECKPOINT_EVERY * CHECKPOINT_EVERY + 5 for number in range(len(ranks) - 1)]
    return [Life(num_ranks, killed_at) for num_ranks, killed_at in zip(ranks, [*kills, None], strict=True)]


def main() -> int:
    """Run the benchmark. Returns the exit status: 0 where the resumed run is the same."""
    parser = harness.parser(__doc__)
    parser.add_argument("--ranks", metavar="N,N,…", help="numbers of ranks of the lives, like 2,2 or 2,1,4")
    options = parser.parse_args()
    lives = [Life(1, KILL_TRAINER_AT), Life(1)]
    if options.ranks:
        lives = _lives([int(number) for number in options.ranks.split(",")])
    same_ranks = len({life.num_ranks for life in lives}) == 1
    with tempfile.TemporaryDirectory(prefix="penstock-resume-") as folder:
        whole = run("whole", [Life(lives[0].num_ranks if same_ranks else 1)], Path(folder), kills_producer=False)
        resumed = run("resumed", lives, Path(folder), kills_producer=True)
    result = compare(whole, resumed)
    if not same_ranks:
        del result["weights_equal"]
    result["ranks"] = [life.num_ranks for life in lives]
    print_table(result, whole, resumed)
    harness.write_json(options.json, result, ("torch", "pyzmq"))
    same = (
        result.get("weights_equal", True) and result["ledger_equal"] and not result["lost"] and not result["duplicated"]
    )
    return 0 if same else 1


if __name__ == "__main__":
    harness.run(main)
