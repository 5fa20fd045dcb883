"""A real Slurm on loopback: a controller, and a daemon for each of several nodes, each with an address of its own.

Everything lies in one folder and on ports of its own, so that a Slurm that is there already is neither used nor
disturbed; all of it is gone afterwards. Accounting, cgroups and the database are left out: none of them changes when
a job starts, or starts again.
"""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "setpriv")
WAIT_S = 120.0
"""Longer than anything takes on a busy machine; no test waits for it but one that fails."""
_POLL_S = 0.1
_START_S = 30.0
_END_S = 5.0


@dataclass(frozen=True)
class Node:
    """A machine, as Slurm takes it."""

    name: str
    address: str
    partition: str
    cpus: int = 2


NODES = (
    Node("trainer0", "127.0.1.1", "trainers"),
    Node("trainer1", "127.0.1.2", "trainers"),
    Node("spot0", "127.0.2.1", "spot"),
    Node("spot1", "127.0.2.2", "spot"),
)
"""Slurm fills them in this order."""

_CONF = """\
ClusterName=penstock-test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# Slurm waits so long before it starts a job again whose node it has lost: an old start may still be on its way.
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=1
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdTimeout=6
KillWait=10
"""


def wait_until(condition: Callable[[], bool], what: str, within_s: float = WAIT_S) -> None:
    """Wait for a condition. AssertionError where it never comes."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"{within_s:.0f} s were not enough for this: {what}"
        time.sleep(_POLL_S)


class Cluster:
    """The daemons of `nodes`. A context manager.

    Args:
        first_port: of a row that nobody listens on, one more than there are nodes.
        nodes: that it has.
    """

    def __init__(self, first_port: int, nodes: Sequence[Node] = NODES) -> None:
        # Not pytest's folder: the path of a socket has about a hundred characters at most.
        self.folder = Path(tempfile.mkdtemp(prefix="penstock-slurm-"))
        self.conf = self.folder / "slurm.conf"
        self.nodes = nodes
        self._port = first_port
        self._daemons: list[subprocess.Popen[bytes]] = []

    @property
    def env(self) -> dict[str, str]:
        """What Slurm's programs need in their environment to find this cluster."""
        return {"SLURM_CONF": str(self.conf)}

    def run(self, *command: str) -> str:
        """Run one of Slurm's programs; what it says."""
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=WAIT_S, check=False, env=os.environ | self.env
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}\n{self.log}"
        return done.stdout

    def field(self, job: str, name: str) -> str:
        """A field of `scontrol show job`."""
        words = self.run("scontrol", "--oneliner", "show", "job", job).split()
        return next(word.partition("=")[2] for word in words if word.startswith(f"{name}="))

    def tasks(self, job: str) -> dict[str, tuple[str, str]]:
        """State and node of each task of a job that has not ended, by its number in the array."""
        lines = self.run("squeue", "--noheader", "--array", "--format=%F|%K|%T|%N").splitlines()
        rows = [line.split("|") for line in lines]
        return {task: (state, node) for array, task, state, node in rows if array == job}

    def until_over(self, *jobs: str, within_s: float = WAIT_S) -> None:
        """Wait for the end of all tasks of these jobs."""
        wait_until(lambda: not any(self.tasks(job) for job in jobs), f"the jobs {', '.join(jobs)} end", within_s)

    def kill_node(self, name: str) -> int:
        """As if the power went: its daemon and all its processes, at once. Returns how many of its jobs' there were."""
        daemon = next(daemon for daemon in self._daemons if daemon.args[-1] == name)  # type: ignore[index]
        daemon.kill()
        daemon.wait()
        found = [process for process in self._jobs_processes() if _node(process) == name]
        _kill([*self._step_daemons(name), *found])
        return len(found)

    @property
    def log(self) -> str:
        """The controller's last words."""
        path = self.folder / "slurmctld.log"
        return path.read_text(errors="replace")[-3000:] if path.exists() else "(no log)"

    # --- start and end ------------------------------------------------------------------------------------------------

    def __enter__(self) -> "Cluster":
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _start(self) -> None:
        self._configure()
        munge = self.folder / "munge"
        names = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self._daemon("munged", "--foreground", "--force", *(f"--{key}={munge / name}" for key, name in names.items()))
        wait_until(lambda: (munge / "socket").exists(), "munged listens")
        self._daemon("slurmctld", "-D", "-c")
        for node in self.nodes:
            self._daemon("slurmd", "-D", "-N", node.name)
        try:
            wait_until(self._is_idle, "every node has registered", _START_S)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log}") from None

    def _configure(self) -> None:
        for name in ("munge", "state", "spool"):
            (self.folder / name).mkdir(mode=0o700)
        (self.folder / "munge" / "key").write_bytes(secrets.token_bytes(64))
        (self.folder / "munge" / "key").chmod(0o600)
        text = _CONF.format(folder=self.folder, port=self._port)
        for number, node in enumerate(self.nodes, start=1):
            text += f"NodeName={node.name} NodeHostname=localhost NodeAddr={node.address} Port={self._port + number} "
            text += f"CPUs={node.cpus} RealMemory=1000 Weight={number}\n"
        for partition in dict.fromkeys(node.partition for node in self.nodes):
            names = ",".join(node.name for node in self.nodes if node.partition == partition)
            text += f"PartitionName={partition} Nodes={names} MaxTime=INFINITE State=UP GraceTime=5\n"
            # The same machines for whoever pays more.
            text += f"PartitionName={partition}-urgent Nodes={names} MaxTime=INFINITE State=UP PriorityTier=10\n"
        self.conf.write_text(text)

    def _daemon(self, *command: str) -> None:
        with (self.folder / f"{command[0]}.out").open("ab") as output:
            # They end with this process, however it ends.
            guarded = ["setpriv", "--pdeathsig", "KILL", *command]
            self._daemons.append(
                subprocess.Popen(
                    guarded, env=os.environ | self.env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/"
                )
            )

    def _is_idle(self) -> bool:
        said = subprocess.run(
            ["sinfo", "--noheader", "--Node", "--format=%N %T"],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | self.env,
        )
        return set(said.stdout.splitlines()) == {f"{node.name} idle" for node in self.nodes}

    def close(self) -> None:
        """End every job and daemon, and remove the folder."""
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            self.run("scancel", "--quiet", "--user=root", "--signal=KILL", "--full")
        for daemon in reversed(self._daemons):  # the nodes' first, so that nothing starts again
            daemon.terminate()
            try:
                daemon.wait(_END_S)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
            _kill([*self._step_daemons(), *self._jobs_processes()])
        shutil.rmtree(self.folder)

    def leftovers(self) -> Sequence[str]:
        """The command lines of processes that this cluster has left behind."""
        return [" ".join(process.cmdline()) for process in [*self._step_daemons(), *self._jobs_processes()]]

    def _jobs_processes(self) -> Iterator[psutil.Process]:
        """Of all jobs of this cluster, and their daemons."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                env = process.environ()
                if env.get("SLURM_CONF") == str(self.conf) and "SLURMD_NODENAME" in env:
                    yield process

    def _step_daemons(self, node: str = "") -> Iterator[psutil.Process]:
        """Slurm's own parents of the jobs' processes. They have no environment, but their node's log open."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.name() == "slurmstepd" and any(
                    Path(file.path).parent == self.folder and file.path.endswith(f"{node}.log")
                    for file in process.open_files()
                ):
                    yield process


def _node(process: psutil.Process) -> str:
    try:
        return process.environ().get("SLURMD_NODENAME", "")
    except psutil.Error:
        return ""


def _kill(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    psutil.wait_procs(processes, _END_S)
