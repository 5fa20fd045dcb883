"""What the two jobs do when something happens to them, on a real Slurm; a shell script stands in for our programs."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from penstock.deploy.slurm import command
from penstock.protocol.errors import ConfigError
from tests.fleet.slurm.cluster import Cluster, wait_until

pytestmark = [pytest.mark.fleet, pytest.mark.long, pytest.mark.alone, pytest.mark.timeout(180)]

STAND_IN = """\
#!/usr/bin/env bash
# Says how it was called; then lives until it is asked to end, or until a file says how this life ends.
case "$*" in *penstock.producer*) role=producer ;; *) role=trainer ;; esac
life=${{SLURM_RESTART_COUNT:-0}}
echo "$role $life ${{SLURM_ARRAY_TASK_ID:--}} $SLURMD_NODENAME $*" >>{folder}/calls
trap 'exit 143' TERM
own={folder}/$role-$life-${{SLURM_ARRAY_TASK_ID:-}}
all={folder}/$role-$life
while [ ! -e "$all" ] && [ ! -e "$own" ]; do sleep 0.1; done
exit "$(cat "$all" "$own" 2>/dev/null)"
"""


class Rehearsal:
    """A plan whose programs are the stand-in."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.cluster = cluster
        self.folder = folder
        self.run_dir = folder / "run"
        self.plan = folder / "plan.json"
        stand_in = folder / "python"
        stand_in.write_text(STAND_IN.format(folder=folder))
        stand_in.chmod(0o755)
        self.write()

    def write(self, **producer: object) -> None:
        """Write the plan; JSON is YAML."""
        slurm = {"folder": str(self.folder / "jobs"), "python": str(self.folder / "python"), "port": 5599}
        jobs = {"trainer": {"partition": "trainers"}, "producer": {"partition": "spot"} | producer}
        plan = {"train": f"--config demo --run-dir {self.run_dir}", "producers": 2, "slurm": slurm | jobs}
        self.plan.write_text(json.dumps(plan))

    def submit(self) -> command.Jobs:
        """Submit it, and wait until all of it runs."""
        assert command.main(["submit", str(self.plan)]) == 0
        jobs = self.jobs
        wait_until(lambda: len(self.calls()) == 3, f"a trainer and two producers run\n{self.logs}")
        return jobs

    @property
    def jobs(self) -> command.Jobs:
        return command.Jobs(**json.loads((self.folder / "jobs" / "jobs.json").read_text()))

    def calls(self, role: str = "", life: int | None = None) -> Sequence[str]:
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.startswith(role) and (life is None or line.split()[1] == str(life))]

    def ends(self, role: str, life: int, status: int, task: int | None = None) -> None:
        """Let this life of all that play a role, or of one task, end so."""
        name = f"{role}-{life}" if task is None else f"{role}-{life}-{task}"
        part = self.folder / "part"
        part.write_text(f"{status}\n")
        part.rename(self.folder / name)

    @property
    def logs(self) -> str:
        return "\n".join(path.read_text() for path in (self.folder / "jobs" / "logs").glob("*.log"))

    def states(self, job: str) -> set[str]:
        return {state for state, _ in self.cluster.tasks(job).values()}


@pytest.fixture
def rehearsal(tmp_path: Path, cluster: Cluster) -> Iterator[Rehearsal]:
    made = Rehearsal(tmp_path, cluster)
    yield made
    cluster.run("scancel", "--quiet", "--user=root")
    wait_until(lambda: not cluster.run("squeue", "--noheader"), "every job has ended")


def test_each_side_gets_its_address_and_its_key(rehearsal: Rehearsal) -> None:
    rehearsal.submit()
    keys = rehearsal.folder / "jobs" / "keys"
    (trainer,) = rehearsal.calls("trainer")
    assert " trainer0 -m torch.distributed.run --nnodes 1 --node-rank 0 --nproc-per-node 1 " in trainer
    assert trainer.endswith(
        f"--master-addr 127.0.1.1 --master-port 5598 -m penstock.consumer --config demo --run-dir {rehearsal.run_dir} "
        f"--fleet.local-producers 0 --stream.keys {keys} --stream.endpoint tcp://*:5599 --stream.advertise 127.0.1.1"
    )
    ending = f"--config demo --key {keys}/producers.key --connect tcp://127.0.1.1:5599 --name spot0-"
    assert sorted(line.partition("-m penstock.producer ")[2] for line in rehearsal.calls("producer")) == [
        f"{ending}0",
        f"{ending}1",
    ]


def test_a_producer_that_crashes_comes_back_and_one_with_an_error_does_not(rehearsal: Rehearsal) -> None:
    jobs = rehearsal.submit()
    rehearsal.ends("producer", 0, 70)
    wait_until(lambda: len(rehearsal.calls("producer", 1)) == 2, "both are started again")
    assert rehearsal.logs.count("from the queue again: it ended with status 70 after 0 restarts") == 2
    rehearsal.ends("producer", 1, 2)
    wait_until(lambda: not rehearsal.cluster.tasks(jobs.producers), "both have ended for good")
    assert rehearsal.states(jobs.trainer) == {"RUNNING"}


def test_one_task_that_comes_back_leaves_the_others_alone(rehearsal: Rehearsal) -> None:
    jobs = rehearsal.submit()
    # The last task has the array's own number, which names all tasks.
    assert rehearsal.cluster.field(f"{jobs.producers}_1", "JobId") == jobs.producers
    rehearsal.ends("producer", 0, 70, task=1)
    wait_until(lambda: bool(rehearsal.calls("producer", 1)), f"it is started again\n{rehearsal.logs}")
    assert [line.split()[2] for line in rehearsal.calls("producer", 1)] == ["1"]
    assert set(rehearsal.states(jobs.producers)) == {"RUNNING"}
    assert rehearsal.cluster.field(f"{jobs.producers}_0", "Restarts") == "0"


def test_near_the_time_limit_all_drain_and_go_on_later(rehearsal: Rehearsal) -> None:
    jobs = rehearsal.submit()
    checkpoint = rehearsal.run_dir / "checkpoint"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").touch()
    # As Slurm sends it itself, --signal=B:USR1@90.
    for job in (jobs.producers, jobs.trainer):
        rehearsal.cluster.run("scancel", "--batch", "--signal=USR1", job)
    wait_until(lambda: len(rehearsal.calls(life=1)) == 3, f"all are started again\n{rehearsal.logs}")
    (first, second) = rehearsal.calls("trainer")
    assert second.partition("-m ")[2] == f"{first.partition('-m ')[2]} --no-overwrite --resume"


def test_slurm_itself_says_that_the_time_limit_is_near(rehearsal: Rehearsal) -> None:
    rehearsal.write(time="1")  # a minute, less than which there is not: the signal is due at once
    rehearsal.submit()
    wait_until(lambda: len(rehearsal.calls("producer", 1)) == 2, f"both are started again\n{rehearsal.logs}")
    assert rehearsal.logs.count("from the queue again: the time limit is near") >= 2


def test_a_producer_that_was_pre_empted_comes_back(rehearsal: Rehearsal) -> None:
    jobs = rehearsal.submit()
    urgent = ["--partition=spot-urgent", "--nodelist=spot0", "--exclusive", "--time=5", "--output=/dev/null"]
    other = rehearsal.cluster.run("sbatch", "--parsable", *urgent, "--wrap=sleep 60").strip()
    wait_until(lambda: set(rehearsal.cluster.tasks(other).values()) == {("RUNNING", "spot0")}, "the other job runs")
    wait_until(lambda: len(rehearsal.calls("producer", 1)) == 2, f"both are started again\n{rehearsal.logs}")
    assert all(line.split()[3] == "spot1" for line in rehearsal.calls("producer", 1))
    assert rehearsal.states(jobs.trainer) == {"RUNNING"}


def test_a_trainer_that_starts_again_without_a_checkpoint_begins_anew(rehearsal: Rehearsal) -> None:
    jobs = rehearsal.submit()
    rehearsal.cluster.run("scontrol", "requeue", jobs.trainer)
    wait_until(lambda: bool(rehearsal.calls("trainer", 1)), f"it is started again\n{rehearsal.logs}")
    assert rehearsal.calls("trainer", 1)[0].endswith(" --no-resume --overwrite")
    assert rehearsal.states(jobs.producers) == {"RUNNING"}


def test_producers_to_whom_a_requeued_trainer_said_goodbye_are_there_for_its_next_life(rehearsal: Rehearsal) -> None:
    jobs = rehearsal.submit()
    rehearsal.cluster.run("scontrol", "requeue", jobs.trainer)
    rehearsal.ends("producer", 0, 0)
    wait_until(lambda: bool(rehearsal.calls("trainer", 1)), f"it is started again\n{rehearsal.logs}")
    wait_until(lambda: len(rehearsal.calls("producer", 0)) == 4, f"both are started again\n{rehearsal.logs}")
    # And when that life says goodbye and ends for good, so do they.
    rehearsal.ends("trainer", 1, 0)
    rehearsal.cluster.until_over(jobs.trainer, jobs.producers)
    assert len(rehearsal.calls("producer")) == 4
    assert rehearsal.cluster.field(jobs.producers, "ExitCode") == "0:0"


def test_a_producer_follows_a_trainer_that_has_moved(rehearsal: Rehearsal) -> None:
    jobs = rehearsal.submit()
    rehearsal.cluster.run("scontrol", "update", "NodeName=trainer0", "State=DRAIN", "Reason=test")
    try:
        rehearsal.cluster.run("scontrol", "requeue", jobs.trainer)
        wait_until(lambda: bool(rehearsal.calls("trainer", 1)), f"the trainer is elsewhere\n{rehearsal.logs}")
        rehearsal.ends("producer", 0, 1)  # as where no trainer was there for long
        wait_until(lambda: len(rehearsal.calls("producer")) >= 4, "both are started again, in the same job")
        assert all("tcp://127.0.1.2:5599" in line for line in rehearsal.calls("producer", 0)[2:])
        # And where it has not moved, a second one such is an error.
        wait_until(lambda: not rehearsal.cluster.tasks(jobs.producers), "both have ended for good")
        assert len(rehearsal.calls("producer")) == 4
    finally:
        rehearsal.cluster.run("scontrol", "update", "NodeName=trainer0", "State=RESUME")


@pytest.mark.parametrize("status", [0, 3])
def test_when_the_trainers_end_no_producer_waits(rehearsal: Rehearsal, status: int) -> None:
    # One of them waits for a core, so that it would start after the end.
    rehearsal.write(cpus=2, options="--nodelist=spot0")
    command.main(["submit", str(rehearsal.plan)])
    jobs = rehearsal.jobs
    wait_until(lambda: rehearsal.states(jobs.producers) == {"RUNNING", "PENDING"}, "one runs, one waits")
    wait_until(lambda: bool(rehearsal.calls("trainer")), "the trainer runs")
    rehearsal.ends("trainer", 0, status)
    wait_until(lambda: not rehearsal.cluster.tasks(jobs.producers), "both producers are gone")
    rehearsal.cluster.until_over(jobs.trainer)
    assert len(rehearsal.calls("producer")) == 1
    assert rehearsal.cluster.field(jobs.trainer, "ExitCode") == f"{status}:0"


def test_producers_that_start_after_the_end_say_so_and_end_well(rehearsal: Rehearsal) -> None:
    jobs = rehearsal.submit()
    script = rehearsal.folder / "jobs" / "produce.sbatch"
    rehearsal.cluster.run("scancel", jobs.trainer, jobs.producers)
    rehearsal.cluster.until_over(jobs.trainer, jobs.producers)
    late = rehearsal.cluster.run("sbatch", "--parsable", "--array=0", str(script), jobs.trainer).strip()
    rehearsal.cluster.until_over(late)
    assert f"job {jobs.trainer} is over: nothing to produce for" in rehearsal.logs
    assert rehearsal.cluster.field(late, "ExitCode") == "0:0"


def test_status_and_cancel(rehearsal: Rehearsal, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = rehearsal.submit()
    with pytest.raises(ConfigError, match=f"are still there .{jobs.trainer}, {jobs.producers}."):
        command.main(["submit", str(rehearsal.plan)])
    capsys.readouterr()
    assert command.main(["status", str(rehearsal.plan)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("RUNNING") == 3, shown
    assert f"penstock-produce-{jobs.trainer}" in shown
    assert command.main(["cancel", str(rehearsal.plan)]) == 0
    rehearsal.cluster.until_over(jobs.trainer, jobs.producers)
    assert len(rehearsal.calls()) == 3  # none of them came back
    capsys.readouterr()
    command.main(["status", str(rehearsal.plan)])
    assert capsys.readouterr().out.startswith("no job is left; logs: ")


def test_what_slurm_refuses_is_one_line_and_leaves_no_job(rehearsal: Rehearsal) -> None:
    rehearsal.write(partition="nowhere")
    with pytest.raises(ConfigError, match=r"^sbatch refuses: .*invalid partition specified: nowhere"):
        command.main(["submit", str(rehearsal.plan)])
    wait_until(lambda: not rehearsal.cluster.run("squeue", "--noheader"), "the trainer's job is gone")
