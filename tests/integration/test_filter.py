"""A filtered run in real processes: whoever makes the images, the same are kept, and a later life keeps the same."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock.consumer.ledger_reader import LedgerReader
from penstock.protocol.tickets import Recipe

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 110.0
RUN = ["--config", "demo", "--groups-per-step", "8", "--reservoir.capacity-groups", "8", "--reservoir.reuse", "1"]
RUN += ["--generator.images-per-group", "4", "--generator.height", "32", "--generator.width", "32", "--order", "ticket"]
RUN += ["--generator.guidance-range", "1", "3", "--evaluation.data", "none", "--fleet.local-producers", "0"]
RUN += ["--filter.min-score", "0.93", "--filter.quantile", "0.2", "--filter.max-candidates", "8"]
PRODUCER = [
    sys.executable,
    "-m",
    "penstock.producer",
    "--config",
    "demo",
    "--batch-images",
    "16",
    "--batch-wait-s",
    "0",
]
# One ticket at a time: none can take them all before the other comes.
PRODUCER += ["--credit-groups", "1"]


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _producers(count: int, endpoint: str, folder: Path, *arguments: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    env = os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    running = []
    for number in range(count):
        command = [*PRODUCER, "--connect", endpoint, "--name", f"producer-{number}", *arguments]
        with (folder / f"producer-{number}.log").open("wb") as log:
            running.append(subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log))
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.wait()


def _train(run_dir: Path, endpoint: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "penstock.consumer", *RUN, "--run-dir", str(run_dir)]
    command += ["--stream.endpoint", endpoint, *arguments]
    env = os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=WAIT_S, check=False)


def _life(run_dir: Path, num_producers: int, *arguments: str) -> None:
    """One life of a run, with as many producers, to its end."""
    endpoint = f"tcp://127.0.0.1:{_free_port()}"
    with _producers(num_producers, endpoint, run_dir.parent, "--scorer", "toyworld"):
        done = _train(run_dir, endpoint, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rejected" in done.stdout


def _made(run_dir: Path) -> tuple[dict[int, tuple[Recipe, int, int]], dict[int, str]]:
    """Of every group how it can be made again, its checksum, and how many images it cost; and who made it."""
    with LedgerReader(run_dir) as ledger:
        groups = list(ledger.groups())
    return {g.index: (g.recipe, g.crc32, g.num_made) for g in groups}, {g.index: g.producer for g in groups}


def _filtered(run_dir: Path) -> dict[str, Any]:
    filtered: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())["filter"]
    return filtered


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_producers_keep_the_images_that_one_keeps_and_so_does_a_later_life(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    _life(one, 1, "--max-steps", "3")
    of_the_first = _filtered(one)
    _life(one, 1, "--max-steps", "6", "--resume")
    _life(two, 2, "--max-steps", "6")
    alone, _ = _made(one)
    together, makers = _made(two)
    assert alone == together
    assert len(together) == 6 * 8
    assert set(makers.values()) == {"producer-0", "producer-1"}
    # What a filter chose is not what would have come without it.
    assert any(recipe.candidates != (0, 1, 2, 3) for recipe, _, _ in together.values())
    filtered = _filtered(two)
    costs = [num_made for _, _, num_made in together.values()]
    assert all(5 <= cost <= 8 for cost in costs)
    assert filtered["made"] == sum(costs)
    assert filtered["rejected"] == sum(costs) - 4 * len(costs)
    assert sum(counts["rejected"] for counts in filtered["by_concept"].values()) == filtered["rejected"]
    assert 0 < len(filtered["hardest_prompts"]) <= 5
    # Counts go on in a later life.
    assert of_the_first["made"] < _filtered(one)["made"] == filtered["made"]
    assert _filtered(one)["by_concept"] == filtered["by_concept"]


@pytest.mark.slow
def test_a_producer_without_a_scorer_is_told_what_it_lacks(tmp_path: Path) -> None:
    endpoint = f"tcp://127.0.0.1:{_free_port()}"
    with _producers(1, endpoint, tmp_path) as (producer,):
        done = _train(tmp_path / "run", endpoint, "--stream.producer-timeout-s", "5", "--max-steps", "1")
        assert producer.wait(WAIT_S) != 0
    assert done.returncode == 1
    lack = "no producer generates images: penstock produce --scorer NAME --connect"
    assert lack in done.stderr.splitlines()[-1], done.stderr
    said = (tmp_path / "producer-0.log").read_text()
    assert "has no scorer, and this run filters its images: penstock produce --scorer NAME" in said
