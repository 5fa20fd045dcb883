"""The script that starts a trainer pod's ranks, run as the Job controller would run it."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from penstock.config.load import load_config
from penstock.consumer.__main__ import PRESETS
from penstock.consumer.config import TrainConfig
from tests.deploy.manifests import FOLDER

SCRIPT = FOLDER / "base" / "trainer.sh"
TOLD = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK")


class Pod:
    """Runs the script as the Job controller would, with programs that say what they were told instead of doing it."""

    def __init__(self, folder: Path) -> None:
        self.run_dir = folder / "run"
        self._bin = folder / "bin"
        self._bin.mkdir()
        for program in ("penstock", "accelerate"):
            lines = ["#!/bin/bash", f"printf '%s\\n' {program} \"$@\"", f"for n in {' '.join(TOLD)}; do"]
            lines.append('[[ -v $n ]] && echo "$n=${!n}"; done; exit 0')
            (self._bin / program).write_text("\n".join(lines))
            (self._bin / program).chmod(0o755)

    def run(self, index: int = 0, pods: int = 1, ranks: int = 1, address: str = "10.0.0.7") -> list[str]:
        told = {
            "PATH": f"{self._bin}:{os.environ['PATH']}",
            "RUN_DIR": str(self.run_dir),
            "TRAINER_PODS": str(pods),
            "RANKS_PER_POD": str(ranks),
            "JOB_COMPLETION_INDEX": str(index),
            "POD_IP": address,
            "SUBDOMAIN": "penstock",
            "HOSTNAME": f"penstock-trainer-0-{index}",
        }
        command = ["bash", str(SCRIPT), "--config=demo"]
        done = subprocess.run(command, env=told, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    return Pod(tmp_path)


def after(words: Sequence[str], flag: str) -> str:
    return words[words.index(flag) + 1]


def test_one_pod_of_one_rank_is_an_ordinary_trainer(pod: Pod) -> None:
    said = pod.run()
    assert said[:2] == ["penstock", "train"]
    assert after(said, "--stream.endpoint") == "tcp://10.0.0.7:5599"
    assert after(said, "--stream.advertise") == "penstock-trainer-0-0.penstock"
    assert after(said, "--metrics") == "0.0.0.0:9400"
    assert "--config=demo" in said
    assert not any(line.startswith(TOLD) for line in said), "what else would be taken for one of several"
    words = said[2 : said.index("--config=demo") + 1]
    config = load_config(TrainConfig, words, preset_dir=PRESETS, prog="", description="")
    assert config.run_dir == pod.run_dir, "the program knows these flags"


@pytest.mark.parametrize("index", [0, 1, 2])
def test_pods_of_one_rank_meet_at_that_of_rank_0_and_bind_the_same_port(pod: Pod, index: int) -> None:
    said = pod.run(index, pods=3)
    rank = 5599 - int(after(said, "--stream.endpoint").rpartition(":")[2])
    assert rank == index, "to which the trainer adds its rank"
    assert 9400 - int(after(said, "--metrics").rpartition(":")[2]) == index
    assert said[-5:] == [
        "MASTER_ADDR=penstock-trainer-0-0.penstock",
        "MASTER_PORT=29500",
        f"RANK={index}",
        "WORLD_SIZE=3",
        "LOCAL_RANK=0",
    ]


def test_pods_of_many_ranks_are_left_to_accelerate(pod: Pod) -> None:
    said = pod.run(1, pods=2, ranks=8)
    assert said[:2] == ["accelerate", "launch"]
    told = {flag: after(said, flag) for flag in ("--num_machines", "--num_processes", "--machine_rank")}
    assert told == {"--num_machines": "2", "--num_processes": "16", "--machine_rank": "1"}
    assert after(said, "--main_process_ip") == "penstock-trainer-0-0.penstock"
    # The first rank of the second pod is 8: its port is 5591 + 8, that of the first rank of every pod.
    assert after(said, "--stream.endpoint") == "tcp://10.0.0.7:5591"
    assert after(said, "-m") == "penstock.consumer"


def test_accelerate_knows_the_flags_of_the_script(pod: Pod) -> None:
    from accelerate.commands.launch import launch_command_parser

    _, *words = pod.run(1, pods=2, ranks=8)
    arguments = launch_command_parser().parse_args(words[1:])
    assert (arguments.num_machines, arguments.num_processes, arguments.machine_rank) == (2, 16, 1)
    assert (arguments.training_script, arguments.module, arguments.multi_gpu) == ("penstock.consumer", True, True)


def test_an_ipv6_cluster_has_its_brackets(pod: Pod) -> None:
    said = pod.run(address="fd00::7")
    assert after(said, "--stream.endpoint") == "tcp://[fd00::7]:5599"
    assert after(said, "--metrics") == "[::]:9400"


@pytest.mark.parametrize("name", ["checkpoint", "checkpoint.old"])
def test_a_pod_that_is_made_again_goes_on_from_the_checkpoint(pod: Pod, name: str) -> None:
    assert "--overwrite" in pod.run()
    pod.run_dir.mkdir()
    (pod.run_dir / "run.json").touch()
    assert "--overwrite" in pod.run(), "nothing to go on from"
    (pod.run_dir / name).mkdir()
    (pod.run_dir / name / "state.json").touch()
    said = pod.run()
    assert "--resume" in said
    assert "--overwrite" not in said


def test_a_run_that_is_over_is_not_begun_again(pod: Pod) -> None:
    pod.run_dir.mkdir()
    (pod.run_dir / "summary.json").touch()
    (said,) = pod.run()
    assert said.startswith(f"the run in {pod.run_dir} is over")


def test_the_script_is_clean() -> None:
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed (make setup)")
    done = subprocess.run([shellcheck, str(SCRIPT)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
