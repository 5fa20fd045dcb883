"""Starts the ranks that `accelerate launch --cpu --num_processes N` was asked for and did not start.

Accelerate leaves several CPU processes to MPI: without `mpirun` it starts one, tells it where the others would
meet, and says nothing. A user who asks for two ranks should have two; so the one process starts all of them and
waits.
"""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

import psutil

from penstock.config import children
from penstock.protocol.errors import ConfigError

_NUM_PROCESSES = re.compile(r"--num[_-]processes(?:=(\d+))?")
_POLL_S = 0.1
_END_S = 10.0
"""How long the ranks may take to end before they are killed: rank 0 says goodbye to the producers, and waits for what
the others leave for its trace."""


_RANK = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_WORLD_SIZE = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def place() -> tuple[int, int]:
    """This process's rank and the number of ranks, as torchrun or MPI put them into the environment; (0, 1) alone."""
    rank = next((int(os.environ[name]) for name in _RANK if name in os.environ), 0)
    return rank, next((int(os.environ[name]) for name in _WORLD_SIZE if name in os.environ), 1)


def missing() -> int:
    """How many ranks this process must start; 0 where it is a rank itself or the only one asked for.

    Raises ConfigError where more were asked for in a way that cannot be read.
    """
    env = os.environ
    is_rank = any(name in env for name in _RANK)
    if is_rank or env.get("ACCELERATE_USE_CPU") != "True" or "MASTER_ADDR" not in env:
        return 0
    launcher = psutil.Process().parent()
    ranks = _num_processes(launcher.cmdline() if launcher else [])
    if ranks is None:
        raise ConfigError(
            "accelerate was asked for several CPU processes and started one; pass --num_processes N on its "
            "command line, or start them with: torchrun --nproc_per_node N -m penstock.consumer"
        )
    return ranks if ranks > 1 else 0


def _num_processes(command: Sequence[str]) -> int | None:
    """The value of `--num_processes` in Accelerate's command line."""
    for word, following in zip(command, [*command[1:], ""], strict=True):
        if match := _NUM_PROCESSES.fullmatch(word):
            value = match[1] or following
            return int(value) if value.isdigit() else None
    return None


def run(num_ranks: int, argv: Sequence[str], module: str = "penstock.consumer") -> int:
    """Run `num_ranks` ranks of `module` with the arguments `argv`; the first failure ends all. Its status, or 0."""
    port = free_port()
    command = [sys.executable, "-m", module, *argv]
    ranks: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(num_ranks):
            ranks.append(children.start(command, env=environment(rank, num_ranks, port)))
        return _wait(ranks)
    finally:
        _end(ranks)


def environment(rank: int, num_ranks: int, port: int) -> dict[str, str]:
    """What tells a process of this machine its place among so many ranks, as torchrun does; rank 0 takes the port."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def free_port() -> int:
    """One that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(ranks: Sequence[subprocess.Popen[bytes]]) -> int:
    while True:
        codes = [rank.poll() for rank in ranks]
        failed = [code for code in codes if code]
        if failed:
            return children.exit_status(failed[0])
        if all(code == 0 for code in codes):
            return 0
        time.sleep(_POLL_S)


def _end(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    for rank in ranks:
        if rank.poll() is None:
            rank.terminate()
    deadline = time.monotonic() + _END_S
    for rank in ranks:
        try:
            rank.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            rank.kill()
            rank.wait()
