"""One file for all launchers: `penstock up`, `penstock slurm` and `penstock ray` read their own parts of it."""

from pathlib import Path

import pytest

from penstock.deploy.plan_file import load_plan
from penstock.deploy.ray_plan import RayPlan
from penstock.deploy.slurm.plan import SlurmPlan
from penstock.deploy.up_config import UpConfig
from penstock.protocol.errors import ConfigError

PLAN = """\
train: --config demo --max-steps 7
produce: --config demo --batch-images 5
ranks: 2
producers: 6
keys: /shared/keys
slurm:
  nodes: 2
  producer: {partition: spot}
ray:
  gpus: 0.5
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "plan.yaml"
    made.write_text(PLAN)
    return made


@pytest.mark.parametrize("named", [[], ["--config"]], ids=["first", "flag"])
def test_every_launcher_takes_the_same_file_and_the_same_words(path: Path, named: list[str]) -> None:
    argv = [*named, str(path), "--producers", "3", "--dry-run"]
    up = load_plan(UpConfig, argv, prog="up", description="")
    slurm = load_plan(SlurmPlan, argv, prog="slurm", description="")
    ray = load_plan(RayPlan, argv, prog="ray", description="")
    for plan in (up, slurm, ray):
        assert plan.produce_arguments[:4] == ["--config", "demo", "--batch-images", "5"]
        assert (plan.producers, plan.dry_run) == (3, True)
    for plan in (up, slurm):
        assert plan.ranks == 2
        assert plan.train_config().max_steps == 7
        assert plan.train_config().stream.keys == "/shared/keys"
    assert (slurm.slurm.producer.partition, ray.ray.gpus) == ("spot", 0.5)


def test_a_mistake_in_a_part_that_is_another_launchers_is_found(path: Path) -> None:
    path.write_text(PLAN.replace("nodes: 2", "node: 2"))
    for cls in (UpConfig, SlurmPlan, RayPlan):
        with pytest.raises(ConfigError, match=r"plan\.yaml:7: slurm\.node: unknown key; did you mean 'nodes'\?"):
            load_plan(cls, [str(path)], prog="x", description="")


def test_what_one_machine_alone_has_no_cluster_takes(path: Path) -> None:
    path.write_text(PLAN + "producer_devices: 0-5\n")
    assert load_plan(UpConfig, [str(path)], prog="x", description="").producer_devices == "0-5"
    with pytest.raises(ConfigError, match=r"producer_devices: unknown key"):
        load_plan(SlurmPlan, [str(path)], prog="x", description="")


def test_resume_and_overwrite_are_the_ranks_last_word(path: Path) -> None:
    train = ["--train", "--config demo --overwrite"]
    for cls in (UpConfig, SlurmPlan):
        assert load_plan(cls, [str(path), *train], prog="x", description="").train_config().overwrite
        resumed = load_plan(cls, [str(path), *train, "--resume"], prog="x", description="").train_config()
        assert (resumed.resume, resumed.overwrite) == (True, False)
