"""The plan of a run on a Slurm cluster: the fleet's, and what each of its two jobs asks the cluster for."""

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from penstock.config.rules import require
from penstock.deploy.fleet_plan import FleetPlan, check_sides, split_words
from penstock.protocol.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_OWN_OPTIONS = ("--array", "--job-name", "--nodes", "--ntasks", "--output", "--signal", "--dependency", "--open-mode")
"""Options of sbatch that the plan's other fields decide."""


def _is_short_for_own(name: str) -> bool:
    """Whether sbatch would complete this to an option that the plan decides, as `--arr` to `--array`."""
    return len(name) > len("--") and any(own.startswith(name) for own in _OWN_OPTIONS)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobConfig:
    """What one of the two jobs asks for. Empty and 0 leave it to the cluster."""

    partition: str = ""
    """Where it may run."""
    time: str = ""
    """Its limit, as sbatch reads it: `4:00:00`, `2-00:00:00`. A job that may be requeued goes on after it."""
    gpus: int = 0
    """Of each process, a rank or a producer; 0 runs on the CPU. A producer of several serves one from each."""
    cpus: int = 1
    """Cores of each process, and its threads."""
    memory_gb: int = 0
    """Of each process, in GiB."""
    requeue: bool = True
    """May start again: after a node failed, after it was pre-empted, and at its time limit."""
    options: str = ""
    """Further options of sbatch, as in a shell: `--qos=spot --constraint='h100|h200'`."""

    def __post_init__(self) -> None:
        for name in ("gpus", "memory_gb"):
            require(getattr(self, name) >= 0, f"{name} must be >= 0", getattr(self, name))
        require(self.cpus >= 1, "cpus must be >= 1", self.cpus)
        for text in (self.partition, self.time, self.options):
            require("\n" not in text, "an option of sbatch must be one line", text)
        for option in self.words:
            # A value apart from its option would be an option of its own in the script.
            require(option.startswith("--"), "options must be written with an equals sign, as --qos=spot", option)
            require(
                not option.startswith(_OWN_OPTIONS) and not _is_short_for_own(option.partition("=")[0]),
                f"options must not be one of {', '.join(_OWN_OPTIONS)}, which the plan decides",
                option,
            )

    @property
    def words(self) -> list[str]:
        """The further options, one by one. Raises ConfigError."""
        return split_words(self.options, "options")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmConfig:
    """What is the cluster's business."""

    name: str = "penstock"
    """Of the jobs: `NAME-train` and `NAME-produce-JOB`."""
    folder: Path = Path("runs/slurm")
    """On a file system that all nodes share; gets scripts, keys, logs and the jobs' numbers. One for each run."""
    account: str = ""
    """That is charged."""
    setup: str = ""
    """Shell lines before each program: `module load cuda`, `source /shared/venv/bin/activate`."""
    python: str = ""
    """The interpreter on the nodes; empty for the one that submits."""
    nodes: int = 1
    """Machines of the trainers, with equally many ranks on each."""
    port: int = 0
    """Of rank 0; rank r takes the port r higher, the ranks' rendezvous the one below. 0 derives it from the job's
    number, so that two runs on one machine do not meet."""
    wait_s: int = 600
    """Seconds that a producer's job waits for the trainer's to run."""
    restarts: int = 20
    """Starts of a producer's job after which a crash ends it for good."""
    signal_s: int = 90
    """Seconds before its time limit at which a job is asked to end. More than a producer's `drain_timeout_s`."""
    trainer: JobConfig = field(default_factory=JobConfig)
    producer: JobConfig = field(default_factory=JobConfig)

    def __post_init__(self) -> None:
        require(
            _NAME.fullmatch(self.name) is not None,
            "name must be letters, digits, '.', '_' and '-', 64 at most",
            self.name,
        )
        require(self.nodes >= 1, "nodes must be >= 1", self.nodes)
        require(self.port == 0 or 1024 < self.port < 65536, "port must be 0 or in [1025, 65535]", self.port)
        require(self.wait_s >= 1, "wait_s must be >= 1", self.wait_s)
        require(self.restarts >= 0, "restarts must be >= 0", self.restarts)
        require(1 <= self.signal_s <= 65535, "signal_s must be in [1, 65535]", self.signal_s)
        require("\n" not in f"{self.account}{self.folder}", "account and folder must be one line", str(self.folder))


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmPlan(FleetPlan):
    """The processes of one run, and where a cluster starts them."""

    slurm: SlurmConfig = field(default_factory=SlurmConfig)

    def __post_init__(self) -> None:
        FleetPlan.__post_init__(self)
        require(
            self.ranks % self.slurm.nodes == 0,
            f"ranks must be a multiple of slurm.nodes ({self.slurm.nodes}): each has equally many",
            self.ranks,
        )
        last = self.slurm.port + self.ranks - 1
        require(last < 65536, f"port must leave room for {self.ranks} ranks below 65536", self.slurm.port)
        require(self.producers >= 1, "producers must be >= 1: the trainers have none of their own here", self.producers)

    def check(self) -> None:
        """Raise ConfigError where ranks and producers cannot work together: here rather than after hours in a queue."""
        train, produce = self.train_config(), self.produce_config()
        check_sides(train, produce, self.ranks)
        if self.slurm.producer.time and self.slurm.signal_s <= produce.drain_timeout_s:
            raise ConfigError(
                f"signal_s must be more than the producers' drain_timeout_s ({produce.drain_timeout_s:g}), "
                f"got {self.slurm.signal_s}"
            )

    @property
    def folder(self) -> Path:
        """Of scripts, keys, logs and the jobs' numbers, whole: jobs have a working folder of their own."""
        return self.slurm.folder.expanduser().absolute()

    @property
    def ranks_per_node(self) -> int:
        """Trainer processes on each machine."""
        return self.ranks // self.slurm.nodes

    @property
    def python(self) -> str:
        """The interpreter on the nodes."""
        return self.slurm.python or sys.executable


def train_directives(plan: SlurmPlan) -> Sequence[str]:
    """The options of sbatch for the trainers: one task a node, which starts that node's ranks."""
    slurm, job, num = plan.slurm, plan.slurm.trainer, plan.ranks_per_node
    own = {
        "job-name": f"{slurm.name}-train",
        "nodes": str(slurm.nodes),
        "ntasks-per-node": "1",
        "output": f"{_literal(plan.folder)}/logs/train-%j.log",
    }
    return _directives(own | _asked(job, num), slurm, job)


def produce_directives(plan: SlurmPlan) -> Sequence[str]:
    """The options of sbatch for the producers: one each, in an array."""
    slurm, job = plan.slurm, plan.slurm.producer
    own = {
        "job-name": f"{slurm.name}-produce",
        "array": f"0-{plan.producers - 1}",
        "nodes": "1",
        "ntasks": "1",
        "output": f"{_literal(plan.folder)}/logs/produce-%A_%a.log",
    }
    return _directives(own | _asked(job, 1), slurm, job)


def _asked(job: JobConfig, num_processes: int) -> dict[str, str]:
    """Of a node."""
    asked = {"cpus-per-task": str(num_processes * job.cpus)}
    asked |= {"gpus-per-node": str(num_processes * job.gpus)} if job.gpus else {}
    asked |= {"mem": f"{num_processes * job.memory_gb}G"} if job.memory_gb else {}
    return asked


def _directives(own: dict[str, str], slurm: SlurmConfig, job: JobConfig) -> Sequence[str]:
    given = {"account": slurm.account, "partition": job.partition, "time": job.time}
    options = own | {name: text for name, text in given.items() if text}
    # To the script alone: it passes on what its program should hear.
    options |= {"open-mode": "append", "signal": f"B:USR1@{slurm.signal_s}"}
    written = [f"--{name}={text}" for name, text in options.items()]
    return [*written, "--requeue" if job.requeue else "--no-requeue", *job.words]


def _literal(path: Path) -> str:
    """A path in which Slurm replaces nothing."""
    return str(path).replace("%", "%%")


def shell_line(option: str) -> str:
    """An option as a line of a batch script."""
    return f"#SBATCH {shlex.quote(option)}"
