"""What `penstock slurm` would submit: read, linted and run here, with stand-ins for Slurm's programs."""

import itertools
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from penstock.deploy import keys
from penstock.deploy.slurm import command
from penstock.deploy.slurm.command import read_plan
from penstock.deploy.slurm.plan import SlurmPlan
from penstock.deploy.slurm.scripts import PRODUCE, TRAIN, produce_script, train_script
from penstock.protocol.errors import ConfigError, KeyFileError, RunError

SHELLCHECK = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")

GPUS = ["--ranks", "16", "--producers", "64", "--slurm.nodes", "2", "--slurm.trainer.gpus", "1"]
GPUS += ["--slurm.trainer.cpus", "12", "--slurm.trainer.memory-gb", "100", "--slurm.producer.gpus", "1"]
AWKWARD = ["--train=--config demo --run-dir '/a run/$(touch x) `y` \"z\" @functions@'"]
AWKWARD += ["--slurm.folder", "/tmp/it's 100% @settings@", "--slurm.setup", "A='b c'\nexport B=\"$A$NOT_SET d\""]
AWKWARD += ["--slurm.producer.options=--qos=spot --constraint='a&b|c'"]


def plan_of(*arguments: str) -> SlurmPlan:
    return read_plan(["demo", *arguments])


def scripts(plan: SlurmPlan) -> dict[str, str]:
    folder = Path("/keys")
    return {TRAIN: train_script(plan, folder), PRODUCE: produce_script(plan, folder / "producers.key")}


def directives(script: str) -> list[str]:
    """Its options, as sbatch reads them."""
    lines = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]
    return [word for line in lines for word in shlex.split(line)]


class Node:
    """A machine of a cluster whose programs only say how they were called.

    Args:
        folder: gets the programs.
        address: of every node.
    """

    def __init__(self, folder: Path, address: str = "10.0.0.7") -> None:
        self.folder = folder
        self._ran = folder / "ran"
        node = f'echo "NodeName=a NodeAddr={address} NodeHostName=a"'
        job = f'[ -e {self._ran} ] && s=COMPLETED || s=RUNNING; echo "JobId=12 JobState=$s Restarts=0 BatchHost=a"'
        cases = f'*hostnames*) printf "a\\nb\\n" ;; *"show node"*) {node} ;; *"show job"*) {job} ;;'
        self.program("scontrol", f'case "$*" in {cases} esac')
        self.program("python", f'touch {self._ran}; printf "%s\\n" "$@"')
        self.program("sleep", "exit 0")

    def program(self, name: str, body: str) -> None:
        """Let a program be a line of shell."""
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def run(self, text: str, *arguments: str, **variables: str) -> list[str]:
        """Run a script there; the arguments that Python gets."""
        process = self.start(text, *arguments, **variables)
        said, errors = process.communicate(timeout=20)
        assert process.returncode == 0, errors
        return said.splitlines()

    def start(self, text: str, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Start a script there."""
        path = self.folder / "script"
        path.write_text(text)
        self._ran.unlink(missing_ok=True)
        return subprocess.Popen(
            ["bash", path, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PATH": f"{self.folder}:{os.environ['PATH']}", "SLURMD_NODENAME": "a", "SLURM_JOB_ID": "7"}
            | variables,
            cwd=self.folder,
        )


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.mark.skipif(SHELLCHECK is None, reason="shellcheck is not installed (make setup)")
@pytest.mark.parametrize("arguments", [[], GPUS, AWKWARD], ids=["demo", "gpus", "awkward"])
def test_the_scripts_are_without_fault_to_shellcheck(arguments: Sequence[str], tmp_path: Path) -> None:
    for name, text in scripts(plan_of(*arguments)).items():
        (tmp_path / name).write_text(text)
        # A dollar sign in single quotes is the plan's own, and NOT_SET its mistake.
        lint = [str(SHELLCHECK), "--exclude=SC2016,SC2154", str(tmp_path / name)]
        done = subprocess.run(lint, capture_output=True, text=True, check=False)
        assert done.stdout + done.stderr == ""


def test_a_job_asks_for_what_its_processes_need() -> None:
    train, produce = (directives(text) for text in scripts(plan_of(*GPUS)).values())
    # Eight ranks on each of two nodes, with a GPU, 12 cores and 100 GiB each.
    assert {"--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=8", "--cpus-per-task=96", "--mem=800G"} <= set(train)
    assert {"--array=0-63", "--nodes=1", "--ntasks=1", "--gpus-per-node=1", "--cpus-per-task=1"} <= set(produce)
    assert {"--requeue", "--signal=B:USR1@90", "--open-mode=append"} <= set(train) & set(produce)


def test_what_the_plan_leaves_out_is_left_to_the_cluster() -> None:
    given = " ".join(itertools.chain(*map(directives, scripts(plan_of()).values())))
    assert not any(f"--{name}" in given for name in ("partition", "time", "account", "gpus", "mem"))


def test_words_of_the_plan_arrive_as_they_are(node: Node) -> None:
    plan = plan_of(*AWKWARD, "--slurm.python", "python")
    got = node.run(scripts(plan)[TRAIN], "--this-node", SLURM_NNODES="1", SLURM_NODEID="0", SLURM_JOB_NODELIST="a")
    assert '/a run/$(touch x) `y` "z" @functions@' in got
    assert not (node.folder / "x").exists()
    options = set(directives(scripts(plan)[PRODUCE]))
    assert {"--qos=spot", "--constraint=a&b|c"} <= options
    # A percent sign is Slurm's own in names of logs.
    assert "--output=/tmp/it's 100%% @settings@/logs/produce-%A_%a.log" in options


def test_ranks_on_gpus_are_accelerates(node: Node) -> None:
    text = scripts(plan_of(*GPUS, "--slurm.python", "python", "--slurm.port", "6000"))[TRAIN]
    got = node.run(text, "--this-node", "--resume", SLURM_NNODES="2", SLURM_NODEID="1", SLURM_JOB_NODELIST="[a-b]")
    assert " ".join(got) == (
        "-m accelerate.commands.launch --num_machines 2 --machine_rank 1 --num_processes 16 "
        "--main_process_ip 10.0.0.7 --main_process_port 5999 --mixed_precision no --dynamo_backend no --multi_gpu "
        "-m penstock.consumer --config demo --fleet.local-producers 0 --stream.keys /keys "
        "--stream.endpoint tcp://*:6000 --stream.advertise 10.0.0.7 --resume"
    )


@pytest.mark.parametrize(
    ("address", "dialled"), [("10.0.0.7", "10.0.0.7"), ("fd00::7", "[fd00::7]"), ("gpu-7.cluster", "gpu-7.cluster")]
)
def test_a_producer_dials_where_slurm_says_that_the_trainers_are(tmp_path: Path, address: str, dialled: str) -> None:
    text = scripts(plan_of("--slurm.python", "python", "--slurm.producer.gpus", "4"))[PRODUCE]
    got = Node(tmp_path, address).run(text, "12", SLURM_ARRAY_TASK_ID="3")
    port = 10_000 + 12 * 64 + 1
    assert " ".join(got) == (
        f"-m penstock.producer --devices all --config demo --key /keys/producers.key --connect tcp://{dialled}:{port} "
        "--name a-3"
    )


def test_both_sides_derive_the_same_port_and_neighbours_do_not_meet(node: Node) -> None:
    plan = plan_of("--slurm.python", "python")
    found = []
    for job in ("1", "2", "339", "340", "41234567"):
        ranks = node.run(
            scripts(plan)[TRAIN],
            "--this-node",
            SLURM_JOB_ID=job,
            SLURM_NNODES="1",
            SLURM_NODEID="0",
            SLURM_JOB_NODELIST="a",
        )
        bound = next(word for word in ranks if word.startswith("tcp://*:")).rpartition(":")[2]
        dialled = next(word for word in node.run(scripts(plan)[PRODUCE], job) if word.startswith("tcp://"))
        assert dialled.endswith(f":{bound}")
        found.append(int(bound))
    assert found[1] - found[0] >= 64  # of consecutive jobs, with room for the ranks between
    # Not privileged, nor among those that Linux gives to outgoing connections.
    assert all(1024 < port < 32_768 - 64 for port in found)


def test_a_producer_whose_time_ends_while_it_waits_for_the_trainer_comes_again(node: Node) -> None:
    node.program(
        "scontrol", 'touch waits; case "$*" in *show*) echo "JobId=12 JobState=PENDING" ;; *) echo "$@" ;; esac'
    )
    process = node.start(scripts(plan_of("--slurm.python", "python"))[PRODUCE], "12")
    deadline = time.monotonic() + 20
    while not (node.folder / "waits").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR1)
    said, _ = process.communicate(timeout=20)
    assert said == "from the queue again: the time limit is near\nrequeue 7\n"


def test_a_producer_waits_for_the_trainer_no_longer_than_it_may(node: Node) -> None:
    node.program("scontrol", "echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1")
    process = node.start(scripts(plan_of("--slurm.wait-s", "1"))[PRODUCE], "12")
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert errors == "job 12 does not run after 1 s: slurm_load_jobs error: Unable to contact slurm controller\n"


def test_the_plan_of_the_documentation_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "slurm.md").read_text()
    block = page.partition("    # plan.yaml\n")[2].partition("\n\nAll but")[0]
    path = tmp_path / "plan.yaml"
    path.write_text(textwrap.dedent(block))
    plan = read_plan([str(path)])
    assert (plan.ranks_per_node, plan.producers) == (8, 64)
    assert plan.train_config().run_dir == Path("/shared/runs/a")
    assert plan.produce_config().backend == "inductor"
    assert "--constraint=a100" in directives(scripts(plan)[PRODUCE])


def test_a_dry_run_prints_everything_and_does_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    folder = tmp_path / "jobs"
    assert command.main(["submit", "demo", "--dry-run", "--slurm.folder", str(folder)]) == 0
    shown = capsys.readouterr().out
    plan = plan_of("--slurm.folder", str(folder))
    assert train_script(plan, folder / "keys") in shown
    assert produce_script(plan, folder / "keys" / "producers.key") in shown
    options = "--dependency=after:TRAINER_JOB --job-name=penstock-produce-TRAINER_JOB"
    assert shown.splitlines()[-2:] == [
        f"sbatch {folder}/train.sbatch",
        f"sbatch {options} {folder}/produce.sbatch TRAINER_JOB",
    ]
    assert not folder.exists()


def test_without_slurm_the_error_says_what_can_be_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    arguments = ["demo", "--slurm.folder", str(tmp_path / "jobs"), f"--train=--config demo --run-dir {tmp_path}/run"]
    with pytest.raises(RunError, match=r"sbatch is not here; submit from a machine of the cluster, or .*--dry-run"):
        command.main(["submit", *arguments])
    made = tmp_path / "jobs" / "keys"
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in made.iterdir()} == {0o600}


def test_keys_that_others_can_read_are_not_used(tmp_path: Path) -> None:
    arguments = ["demo", "--slurm.folder", str(tmp_path / "jobs"), f"--train=--config demo --run-dir {tmp_path}/run"]
    command.make_keys(read_plan(arguments))
    (tmp_path / "jobs" / "keys" / "producers.key").chmod(0o644)
    with pytest.raises(KeyFileError, match=r"producers\.key is open to others"):
        command.main(["submit", *arguments])


def test_keys_of_ones_own_stand_in_both_arguments() -> None:
    own = plan_of("--train=--config demo --stream.keys /k", "--produce=--config demo --key /k/me.key")
    assert command.planned_keys(own).trainer is None
    with pytest.raises(ConfigError, match=r"--stream\.keys and produce's --key belong together"):
        command.planned_keys(plan_of("--train=--config demo --stream.keys /k"))
    assert command.planned_keys(plan_of("--train=--config demo --stream.insecure")).producer is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--ranks", "3", "--slurm.nodes", "2"], r"ranks must be a multiple of slurm.nodes \(2\)"),
        (["--producers", "0"], "producers must be >= 1"),
        (["--slurm.producer.options=--array=0-9"], "options must not be one of --array"),
        (["--slurm.producer.options=--arr=0-9"], "options must not be one of --array"),
        (["--slurm.producer.options=-a0-9"], "options must be written with an equals sign"),
        (["--slurm.producer.options", "qos=spot"], "options must be written with an equals sign"),
        (["--slurm.trainer.partition", "a\nb"], "an option of sbatch must be one line"),
        (["--slurm.name", "a b"], "name must be letters"),
        (["--slurm.port", "65534", "--ranks", "4"], "port must leave room for 4 ranks"),
        (["--slurm.port", "80"], r"port must be 0 or in \[1025, 65535\]"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        plan_of(*arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--train=--groups-per-step 32", "--ranks", "3"], r"multiple of the number of ranks \(3\), got 32"),
        (["--slurm.producer.time", "60", "--slurm.signal-s", "25"], r"signal_s must be more than .* \(25\), got 25"),
        (["--train=--config demo --filter.min-score 0.5"], "produce names no --scorer"),
    ],
)
def test_what_would_fail_on_the_nodes_is_said_before_anything_waits_in_a_queue(
    arguments: list[str], words: str, tmp_path: Path
) -> None:
    for more in ([], ["--dry-run"]):
        with pytest.raises(ConfigError, match=words):
            command.main(["submit", "demo", "--slurm.folder", str(tmp_path / "jobs"), *arguments, *more])
    assert not (tmp_path / "jobs").exists()


def test_a_trainers_job_that_gets_no_producers_is_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def submit(script: Path, *arguments: str, options: Sequence[str] = ()) -> str:
        if script.name == PRODUCE:
            raise KeyboardInterrupt
        return "12"

    cancelled: list[str] = []
    monkeypatch.setattr(command.queue, "submit", submit)
    monkeypatch.setattr(command.queue, "cancel", cancelled.extend)
    run = f"--train=--config demo --run-dir {tmp_path}/run"
    with pytest.raises(KeyboardInterrupt):
        command.main(["submit", "demo", "--slurm.folder", str(tmp_path / "jobs"), run])
    assert cancelled == ["12"]
    assert not (tmp_path / "jobs" / "jobs.json").exists()


def test_keys_of_the_plan_let_its_producers_in_beside_those_who_are_there(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    keys.main(["init", str(folder)])
    keys.main(["add", str(folder), "ann"])
    for _ in range(2):  # the second time there is nothing left to do
        made = command.make_keys(plan_of("--keys", str(folder)))
        assert (made.trainer, made.producer) == (folder, folder / "producers.key")
    allowed = (folder / "allowed").read_text().splitlines()
    assert [line.split()[0] for line in allowed if not line.startswith("#")] == ["ann", "producers"]


def test_a_file_is_a_plan_too_and_its_mistakes_have_a_line(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("ranks: 4\nslurm:\n  nodes: 2\n  trainer: {partition: a100, options: --qos=high}\n")
    plan = read_plan([str(path), "--producers", "5"])
    assert (plan.ranks_per_node, plan.producers, plan.slurm.trainer.options) == (2, 5, "--qos=high")
    path.write_text("ranks: 4\nslurm:\n  node: 2\n")
    with pytest.raises(ConfigError, match=r"plan\.yaml:3: slurm\.node: .*did you mean 'nodes'"):
        read_plan([str(path)])


@pytest.mark.parametrize("argv", [["sumbit", "demo"], ["submit"], ["status"]])
def test_a_mistyped_action_is_one_line(argv: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"no such action: sumbit; did you mean 'submit'|needs CONFIG"):
        command.main(argv)


def test_there_is_nothing_to_cancel_where_nothing_was_submitted(tmp_path: Path) -> None:
    arguments = ["demo", "--slurm.folder", str(tmp_path)]
    with pytest.raises(ConfigError, match="tells of no jobs"):
        command.main(["cancel", *arguments])
    (tmp_path / "jobs.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"jobs\.json cannot be read"):
        command.main(["status", *arguments])


def test_a_run_folder_that_is_taken_is_said_before_anything_waits_in_a_queue(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").touch()
    with pytest.raises(RunError, match="is not empty"):
        command.main(["submit", "demo", f"--train=--config demo --run-dir {tmp_path / 'run'}"])


def test_help_names_every_action(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--help"]) == 0
    assert command.main([]) == 2
    shown = capsys.readouterr().out
    assert all(f"penstock slurm {action} CONFIG" in shown for action in ("submit", "status", "cancel"))
