"""Runs the arms of a sweep as children: what has finished is left, what was killed goes on, what fails harms no other.

What an arm's folder was made with stands in `sweep.json` before the arm starts, so that no arm of other settings is
ever taken for one of these.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

from penstock.config import children
from penstock.deploy.launch import GRACE_S, end_group
from penstock.deploy.sweep_plan import Arm
from penstock.deploy.sweep_results import read_json
from penstock.protocol.errors import ConfigError

POLL_S = 0.2
NO_LINE = "it said nothing"

Todo = Literal["finished", "resume", "again", "begin"]
"""What an arm asks for: nothing; `--resume`; `--overwrite`, where no checkpoint is left to resume; a first start."""


class Child(Protocol):
    """A trainer that runs."""

    def poll(self) -> int | None:
        """Its exit status as a shell shows it, or None while it runs."""

    def ask_to_end(self) -> None:
        """Begin its orderly end."""

    def end(self, grace_s: float) -> None:
        """See to it that it and all that it started have ended; what lives `grace_s` seconds from now is killed."""


Launch = Callable[[Sequence[str], Path], Child]
"""Starts a trainer with these arguments, its output in this file."""


class TrainerChild:
    """`penstock train` as a process with a group of its own.

    Args:
        command: what to run.
        log: gets its output.
        env: what its environment has beside this process's.
    """

    def __init__(self, command: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
        with log.open("wb") as output:
            self._process = children.start(command, output=output, env=env)

    def poll(self) -> int | None:
        """See `Child`."""
        code = self._process.poll()
        return None if code is None else children.exit_status(code)

    def ask_to_end(self) -> None:
        """See `Child`."""
        self._process.terminate()

    def end(self, grace_s: float) -> None:
        """See `Child`."""
        end_group(self._process, grace_s)


def todo(arm: Arm, recorded: Mapping[str, str], *, overwrite: bool) -> Todo:
    """What is to be done for an arm.

    Args:
        arm: the arm.
        recorded: digests of the settings that folders were made with, by the arm's name.
        overwrite: whether a folder of other settings may be deleted.

    Raises:
        ConfigError: its folder holds something else, and may not be deleted.
    """
    folder = arm.config.run_dir
    if not folder.is_dir() or not any(folder.iterdir()):
        return "begin"
    if recorded.get(arm.name) != arm.digest:
        if overwrite:
            return "again"
        raise ConfigError(f"{folder} was made with other settings; choose another --out, or --overwrite it")
    if read_json(folder / "summary.json").get("steps") == arm.config.max_steps:
        return "finished"
    steps = [read_json(folder / name / "state.json").get("step") for name in ("checkpoint", "checkpoint.old")]
    done = next((step for step in steps if isinstance(step, int)), None)
    # One that was killed behind its last checkpoint has no step left to go on with.
    return "again" if done is None or done >= arm.config.max_steps else "resume"


def arguments(arm: Arm, what: Todo) -> list[str]:
    """The trainer's arguments for what is to be done."""
    extra = {"resume": ["--resume"], "again": ["--overwrite"]}.get(what, [])
    return [*arm.argv, *extra]


def run_arms(
    waiting: Sequence[tuple[Arm, Todo]],
    parallel: int,
    launch: Launch,
    started: Callable[[Arm, Todo], None],
    ended: Callable[[Arm, int, str], None],
) -> None:
    """Run arms, `parallel` at a time, to their ends; however this ends, no child is alive afterwards.

    Args:
        waiting: the arms and what is to be done for each.
        parallel: arms at a time.
        launch: starts a trainer.
        started: called before an arm starts.
        ended: called with an arm's exit status and the last line that it wrote.

    Raises:
        OSError: a trainer cannot be started.
    """
    queue = list(waiting)
    running: dict[str, tuple[Arm, Child]] = {}
    try:
        while queue or running:
            while queue and len(running) < parallel:
                arm, what = queue.pop(0)
                started(arm, what)
                running[arm.name] = arm, launch(arguments(arm, what), log_of(arm))
            for arm, child in list(running.values()):
                if (code := child.poll()) is not None:
                    child.end(GRACE_S)
                    del running[arm.name]
                    ended(arm, code, last_line(log_of(arm)))
            if running:
                time.sleep(POLL_S)
    finally:
        for _, child in running.values():
            child.ask_to_end()
        deadline = time.monotonic() + GRACE_S  # one for all: they end side by side
        for _, child in running.values():
            child.end(max(0.0, deadline - time.monotonic()))


def log_of(arm: Arm) -> Path:
    """What the arm's trainer says, beside its folder."""
    return arm.config.run_dir.with_name(f"{arm.name}.log")


def last_line(log: Path) -> str:
    """The last line that is not empty."""
    try:
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return NO_LINE
    return next((line for line in reversed(lines) if line), NO_LINE)


def shared_cores(parallel: int) -> dict[str, str]:
    """The environment of arms that run side by side: one thread each, or they run many times slower."""
    return {"OMP_NUM_THREADS": "1"} if parallel > 1 else {}
