"""Slurm's own programs: what is submitted, what is there, what is ended."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from penstock.protocol.errors import ConfigError, RunError

_ANSWER_S = 60.0
"""How long Slurm may take to answer."""


def submit(script: Path, *arguments: str, options: Sequence[str] = ()) -> str:
    """Submit a batch script; the job's number. Raises ConfigError where Slurm refuses it, RunError without Slurm."""
    said = _run(["sbatch", "--parsable", *options, str(script), *arguments])
    return said.strip().partition(";")[0]  # a cluster's name follows where there are several


def listed(jobs: Sequence[str]) -> Sequence[str]:
    """A line for each task of these jobs that waits, runs or ends just now. Raises RunError without Slurm."""
    # Asked for all of the user's: a number that Slurm has forgotten would be an error.
    lines = _run(["squeue", "--me", "--noheader", "--format=%F %i|%j|%T|%M|%N|%r"]).splitlines()
    return [line.partition(" ")[2] for line in lines if line.partition(" ")[0] in jobs]


def cancel(jobs: Sequence[str]) -> None:
    """End these jobs, whether they wait or run. Raises RunError without Slurm."""
    _run(["scancel", "--quiet", *jobs])


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(list(command), capture_output=True, text=True, timeout=_ANSWER_S, check=False)
    except FileNotFoundError as error:
        raise RunError(
            f"{command[0]} is not here; submit from a machine of the cluster, or see the scripts with --dry-run"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise RunError(f"{command[0]} has not answered for {_ANSWER_S:g} s; is the cluster's controller up?") from error
    if done.returncode != 0:
        lines = [line.removeprefix(f"{command[0]}: error: ") for line in done.stderr.strip().splitlines()]
        raise ConfigError(f"{command[0]} refuses: {'; '.join(lines) or f'status {done.returncode}'}")
    return done.stdout
