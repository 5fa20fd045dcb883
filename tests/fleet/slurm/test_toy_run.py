"""A run of the toy world as two jobs of a real Slurm: undisturbed, and with a node of producers that dies."""

import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import pytest

from penstock.consumer.ledger_reader import LedgerReader, read_steps
from penstock.deploy.slurm import command
from penstock.deploy.slurm.command import read_plan
from tests.fleet.slurm.cluster import Cluster, wait_until

pytestmark = [pytest.mark.fleet, pytest.mark.long, pytest.mark.alone]

NUM_STEPS = 40
RUN_S = 200.0
"""Longer than two ranks and two producers take to load torch and to run, on a busy machine."""

PLAN = """\
train: >-
  --config demo --run-dir {run_dir} --max-steps {steps} --groups-per-step 8 --order ticket --evaluation.data none
  --reservoir.capacity-groups 16 --reservoir.reuse 1 --stream.window-groups 16 --generator.images-per-group 4
  --stream.producer-timeout-s 300 --checkpoint-every-steps 8
produce: --config demo --batch-images 16 --batch-wait-s 0 --credit-groups 4
ranks: 2
producers: 2
slurm:
  name: {name}
  folder: {folder}
  nodes: 2
  trainer: {{partition: trainers}}
  producer: {{partition: spot}}
"""


@dataclass(frozen=True)
class Submitted:
    """A run that was submitted."""

    run_dir: Path
    folder: Path
    jobs: command.Jobs

    def log(self, job: str) -> str:
        return "".join(
            path.read_text(errors="replace") for path in sorted((self.folder / "logs").glob(f"*-{job}*.log"))
        )

    @property
    def logs(self) -> str:
        return self.log(self.jobs.trainer) + self.log(self.jobs.producers)

    @property
    def groups(self) -> dict[int, tuple[str, int, int]]:
        """Prompt, seed and checksum of the pixels of every group, by its index."""
        found: dict[int, tuple[str, int, int]] = {}
        for path in sorted(self.run_dir.glob("ledger-*.sqlite")):
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
                for index, *rest in db.execute("SELECT idx, prompt, seed, crc32 FROM made"):
                    assert index not in found
                    found[index] = tuple(rest)
            db.close()
        return found

    @property
    def num_steps(self) -> int:
        return len(read_steps(self.run_dir)) if self.run_dir.exists() else 0


def submit(folder: Path, name: str) -> Submitted:
    run_dir, own = folder / f"{name} run", folder / f"{name} jobs"  # a space is what quoting is for
    plan = folder / f"{name}.yaml"
    plan.write_text(PLAN.format(run_dir=f"'{run_dir}'", folder=own, steps=NUM_STEPS, name=name))
    return Submitted(run_dir, own, command.submit(read_plan([str(plan)])))


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Submitted:
    run = submit(tmp_path_factory.mktemp("undisturbed"), "undisturbed")
    cluster.until_over(run.jobs.trainer, run.jobs.producers, within_s=RUN_S)
    return run


@pytest.mark.timeout(300)
def test_trainers_and_producers_find_each_other_and_end_together(undisturbed: Submitted, cluster: Cluster) -> None:
    assert "Traceback" not in undisturbed.logs, undisturbed.logs
    assert json.loads((undisturbed.run_dir / "summary.json").read_text())["steps"] == NUM_STEPS, undisturbed.logs
    # Each rank at its own node's address, with the port of its rank; both reached with the producers' key.
    producers = undisturbed.log(undisturbed.jobs.producers)
    for rank, address in enumerate(("127.0.1.1", "127.0.1.2")):
        assert f"ready for rank {rank} at tcp://{address}:" in producers
    with LedgerReader(undisturbed.run_dir) as ledger:
        assert set(ledger.producers) == {"spot0-0", "spot0-1"}
    assert cluster.field(undisturbed.jobs.trainer, "ExitCode") == "0:0"


@pytest.mark.timeout(400)
def test_a_node_of_producers_dies_and_the_run_is_the_same(
    undisturbed: Submitted, cluster: Cluster, tmp_path: Path
) -> None:
    run = submit(tmp_path, "node-lost")
    wait_until(lambda: run.num_steps >= 3, "the run has begun", RUN_S)
    assert {node for _, node in cluster.tasks(run.jobs.producers).values()} == {"spot0"}
    # Two scripts and two producers: with them gone, nothing can go on before they are back.
    assert cluster.kill_node("spot0") >= 4
    done_before = run.num_steps
    assert done_before < NUM_STEPS
    wait_until(
        lambda: set(cluster.tasks(run.jobs.producers).values()) == {("RUNNING", "spot1")},
        "both producers run on the other node",
    )
    assert cluster.field(f"{run.jobs.producers}_0", "Restarts") == "1"
    cluster.until_over(run.jobs.trainer, run.jobs.producers, within_s=RUN_S)

    assert json.loads((run.run_dir / "summary.json").read_text())["steps"] == NUM_STEPS, run.logs
    with LedgerReader(run.run_dir) as ledger:
        assert set(ledger.producers) == {"spot0-0", "spot0-1", "spot1-0", "spot1-1"}
    # The same groups to the bit, each in the same step, nothing lost and nothing twice; and the same weights of it.
    assert run.groups == undisturbed.groups
    assert read_steps(run.run_dir) == read_steps(undisturbed.run_dir)
    assert _weights(run) == _weights(undisturbed)


@pytest.mark.timeout(400)
def test_the_trainers_start_again_and_the_run_is_the_same(
    undisturbed: Submitted, cluster: Cluster, tmp_path: Path
) -> None:
    run = submit(tmp_path, "requeued")
    wait_until(lambda: run.num_steps >= 10, "a checkpoint is written", RUN_S)
    cluster.run("scontrol", "requeue", run.jobs.trainer)
    cluster.until_over(run.jobs.trainer, run.jobs.producers, within_s=RUN_S)
    with LedgerReader(run.run_dir) as ledger:
        assert len(ledger.lives) == 4  # two of each rank
    assert read_steps(run.run_dir) == read_steps(undisturbed.run_dir)
    assert _weights(run) == _weights(undisturbed)


def _weights(run: Submitted) -> bytes:
    return (run.run_dir / "encoder" / "model.safetensors").read_bytes()
