"""A real run of two ranks over three machines: a cut link that heals changes neither its ledger nor its weights."""

import json
import sqlite3
import time
from pathlib import Path

import pytest

from penstock.consumer.ledger_reader import LedgerReader, read_steps
from tests.faults.programs import Program, wait_until
from tests.fleet.namespaces.conftest import ANN, BOB, TRAINER, Fleet
from tests.fleet.namespaces.hosts import Network

pytestmark = [pytest.mark.fleet, pytest.mark.long, pytest.mark.timeout(500)]

NUM_STEPS = 40
LOAD_S = 150.0
"""Longer than two ranks take to load torch on a busy machine."""
LAUNCH = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes=2", "--quiet", "-m", "penstock.consumer")
TRAIN = (
    *("--config", "demo", "--fleet.local-producers", "0", "--evaluation.data", "none", "--order", "ticket"),
    *("--groups-per-step", "8", "--generator.images-per-group", "4"),
    *("--reservoir.capacity-groups", "16", "--reservoir.reuse", "1", "--stream.window-groups", "16"),
    *("--stream.endpoint", "tcp://*:5599", "--stream.heartbeat-s", "0.5", "--stream.lease-s", "3"),
)
PRODUCE = (
    *("--backend", "paced", "--paced-images-per-s", "40", "--batch-images", "16", "--batch-wait-s", "0"),
    *("--credit-groups", "4"),
)


def start(fleet: Fleet, run_dir: Path) -> list[Program]:
    """The trainer, ann and bob."""
    options = ["--run-dir", str(run_dir), "--max-steps", str(NUM_STEPS), "--stream.keys", str(fleet.keys)]
    trainer = fleet.program(TRAINER, f"{run_dir.name}-trainer", *LAUNCH, *TRAIN, *options)
    producers = [
        fleet.program(
            name,
            f"{run_dir.name}-{name}",
            *("-m", "penstock.producer", *PRODUCE, "--name", name, "--key", str(fleet.keys / f"{name}.key")),
            # Neither rank is up yet, and the second may well be the first.
            *("--connect", f"tcp://{TRAINER}:5600,tcp://{TRAINER}:5599"),
        )
        for name in (ANN, BOB)
    ]
    return [trainer, *producers]


def num_steps(run_dir: Path) -> int:
    return len(read_steps(run_dir)) if run_dir.exists() else 0


def groups(run_dir: Path) -> dict[int, tuple[str, int, int]]:
    """Prompt, seed and checksum of the pixels of every group, by its index."""
    found: dict[int, tuple[str, int, int]] = {}
    for path in sorted(run_dir.glob("ledger-*.sqlite")):
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        for index, *rest in db.execute("SELECT idx, prompt, seed, crc32 FROM made"):
            assert index not in found, "made once"
            found[index] = tuple(rest)
        db.close()
    return found


def joined(trainer: Program) -> list[int]:
    """How often bob has joined each rank."""
    return [trainer.output.count(f"rank {rank} INFO: bob joined") for rank in range(2)]


def weights(run_dir: Path) -> bytes:
    return (run_dir / "encoder" / "model.safetensors").read_bytes()


def until_over(run_dir: Path, programs: list[Program]) -> None:
    trainer, *producers = programs
    assert trainer.end(LOAD_S) == 0, trainer.output
    assert [producer.end(20) for producer in producers] == [0, 0]
    assert "Traceback" not in "".join(program.output for program in programs)
    assert json.loads((run_dir / "summary.json").read_text())["steps"] == NUM_STEPS
    with LedgerReader(run_dir) as ledger:
        assert set(ledger.producers) == {ANN, BOB}


def test_the_run_is_the_same_to_the_bit(fleet: Fleet, network: Network, tmp_path: Path) -> None:
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    programs = start(fleet, unbroken)
    until_over(unbroken, programs)
    assert "refused a message" not in programs[0].output, "finding the ranks is no noise"

    programs = start(fleet, broken)
    trainer = programs[0]
    trainer.until(lambda: num_steps(broken) >= 3, "the run has begun", LOAD_S)
    trainer.until(lambda: all(joined(trainer)), "both ranks have bob")
    network.cut(BOB)
    before = joined(trainer)
    cut = time.monotonic()
    wait_until(lambda: time.monotonic() > cut + 11, "the cut")
    assert num_steps(broken) < NUM_STEPS, "it was cut in the middle"
    network.heal(BOB)
    trainer.until(lambda: all(now > then for now, then in zip(joined(trainer), before, strict=True)), "bob is back")
    until_over(broken, programs)
    assert "bob has been silent" in trainer.output

    assert len(groups(unbroken)) >= NUM_STEPS * 8
    assert groups(broken) == groups(unbroken)
    assert read_steps(broken) == read_steps(unbroken)
    assert weights(broken) == weights(unbroken)
