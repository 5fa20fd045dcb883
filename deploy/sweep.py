"""`penstock sweep`: one setting over several values and seeds, arm after arm, and the curve."""

import dataclasses
import functools
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from penstock.config.load import load_config
from penstock.config.process import Terminated, printable
from penstock.consumer.config import TrainConfig
from penstock.deploy.demo import preset_dir
from penstock.deploy.sweep_arguments import ALIASES, PROG, Sweep, parse
from penstock.deploy.sweep_plan import Arm, plan, statement
from penstock.deploy.sweep_results import (
    SCHEMA_VERSION,
    Outcome,
    Results,
    gather,
    read_json,
    read_outcome,
    write_whole,
)
from penstock.deploy.sweep_runs import Launch, Todo, TrainerChild, log_of, run_arms, shared_cores, todo
from penstock.deploy.sweep_table import as_csv, table, verdict
from penstock.protocol.errors import RunError

HELP = """\
usage: penstock sweep NAME=V1,V2,... [--seeds 0,1,2] [--out DIR] [--fix images|none] [--parallel N] [--overwrite]
                      [any flag of penstock train]

Train one arm for each value and seed, one after another, and draw the curve: kNN on real handwriting by the setting.

  penstock sweep guidance=1,1.5,2,3,5,8 --seeds 0,1,2
  penstock sweep m=1,2,4,8
  penstock sweep reuse=4,8,16,32 --max-steps 300
  penstock sweep augment.hue=0,0.1,0.2 --config my-run.yaml

NAME is a dotted setting of `penstock train --help`, or short for one:
{aliases}

  --seeds LIST     arms of each value; the arms of a seed share prompts, noise, augmentations and first weights.
                   Three or more give intervals. (default: 0)
  --out DIR        where the arms' run folders, the table and the curve go (default: runs/sweep-NAME)
  --fix images     what else follows the setting, so that all arms use up as many images (default):
                     m       prompts a step go with 1/m: equal images, steps and rows a step. With
                             --reservoir.images-per-use, reuse goes with m instead.
                     reuse   steps go with the reuse: equal images and rows a step. Steps cannot be equal too.
                   Reservoir and window, counted in prompts, keep their images. What changed is printed.
  --fix none       change the one setting alone
  --parallel N     arms at a time, each with one thread (default: 1)
  --overwrite      delete arms in DIR that were run with other settings; otherwise they are an error

All else goes to every arm. Without --config that is the preset `demo`, without --order it is `ticket`: then which step
uses which images follows from the seed alone.

DIR gets sweep.json, sweep.csv and curve.png, written anew after every arm. The best value is chosen on the validation
scans and reported on the test scans. The same command goes on with a sweep that was stopped: finished arms are left,
killed ones go on from their checkpoint. An arm that fails does not stop the others; the sweep then ends with status 1.
"""


def main(argv: Sequence[str]) -> int:
    """Run the sweep that `argv` describes; 1 where an arm failed."""
    if any(word in ("-h", "--help") for word in argv):
        width = max(map(len, ALIASES))
        print(HELP.format(aliases="\n".join(f"  {name:{width}}  {flag[2:]}" for name, flag in ALIASES.items())), end="")
        return 0
    sweep = parse(argv)
    arms = plan(sweep, _load)
    try:
        return run(sweep, arms, functools.partial(_launch, shared_cores(sweep.parallel)))
    except (KeyboardInterrupt, Terminated):
        print(f"stopped; the same command goes on: {PROG} {shlex.join(argv)}", file=sys.stderr)
        raise


def run(sweep: Sweep, arms: Sequence[Arm], launch: Launch) -> int:
    """Run what is left of the arms, writing the results after each.

    Args:
        sweep: what was asked for.
        arms: all of them.
        launch: starts a trainer.

    Returns:
        0, or 1 where an arm failed.

    Raises:
        ConfigError: an arm's folder holds something else.
        RunError: the sweep's folder cannot be written.
    """
    book = Book(sweep, arms)
    waiting = book.waiting()
    try:
        sweep.out.mkdir(parents=True, exist_ok=True)
        for line in book.announcement(len(waiting)):
            print(line)
        book.write()
        run_arms(waiting, sweep.parallel, launch, book.start, book.end)
    except OSError as error:
        raise RunError(f"{sweep.out} cannot hold a sweep: {error.strerror or error}; choose another --out") from error
    book.close()
    return 1 if book.failures else 0


class Book:
    """What a sweep knows of its arms, and the files that tell it.

    Args:
        sweep: what was asked for.
        arms: all of them.
    """

    def __init__(self, sweep: Sweep, arms: Sequence[Arm]) -> None:
        self._sweep = sweep
        self._arms = arms
        earlier: list[dict[str, Any]] = read_json(sweep.out / "sweep.json").get("arms", [])
        self._recorded: dict[str, str] = {arm["name"]: arm["settings"] for arm in earlier}
        # Of values that this sweep leaves out: a later one may take them up again.
        names = {arm.name for arm in arms}
        self._others = [arm for arm in earlier if arm["name"] not in names]
        self._outcomes: dict[str, Outcome] = {}
        self.failures: dict[str, str] = {}
        """The last lines of arms that failed, by name."""

    def waiting(self) -> list[tuple[Arm, Todo]]:
        """The arms that are not finished, with what is to be done for each. Raises ConfigError."""
        waiting: list[tuple[Arm, Todo]] = []
        for arm in self._arms:
            what = todo(arm, self._recorded, overwrite=self._sweep.overwrite)
            if what != "finished":
                waiting.append((arm, what))
            elif (outcome := read_outcome(arm.config.run_dir, arm.value, arm.seed)) is not None:
                self._outcomes[arm.name] = outcome
        return waiting

    def announcement(self, num_waiting: int) -> list[str]:
        """What is about to be done."""
        done = len(self._arms) - num_waiting
        flag = self._sweep.flag.removeprefix("--")
        head = f"{len(self._arms)} arms of {flag} in {self._sweep.out}" + (f", {done} finished already" if done else "")
        return [head, *statement(self._sweep, self._arms)]

    def start(self, arm: Arm, what: Todo) -> None:
        """Write down what the arm is made with; then it may start."""
        self._recorded[arm.name] = arm.digest
        self.write()
        goes = {"resume": "goes on from its checkpoint", "again": "begins again"}.get(what, "begins")
        print(f"{self._place(arm)} {goes}; see {log_of(arm)}", flush=True)

    def end(self, arm: Arm, code: int, last: str) -> None:
        """Write down how the arm ended."""
        outcome = read_outcome(arm.config.run_dir, arm.value, arm.seed) if code == 0 else None
        if outcome is None:
            self.failures[arm.name] = printable(last)
            print(f"{self._place(arm)} failed with status {code}: {printable(last)}", flush=True)
        else:
            self._outcomes[arm.name] = outcome
            print(f"{self._place(arm)} {_figures(outcome)}", flush=True)
        self.write()

    def close(self) -> None:
        """Say what was found."""
        results = self.results()
        if results.rows:
            print("", table(results), "", sep="\n")
            print(*self._verdict(results), f"curve    {self._sweep.out / 'curve.png'}", sep="\n")
        for name, line in self.failures.items():
            print(f"{name} failed: {line}", file=sys.stderr)

    def results(self) -> Results:
        """What the finished arms found."""
        return gather(self._sweep.name, self._sweep.values, list(self._outcomes.values()))

    def write(self) -> None:
        """Write table and curve. Raises OSError."""
        results = self.results()
        out = self._sweep.out
        write_whole(out / "sweep.json", json.dumps(self._as_json(results), indent=2) + "\n")
        write_whole(out / "sweep.csv", as_csv(results))
        notes = [*statement(self._sweep, self._arms)[:2], *self._verdict(results)]
        draw(out / "curve.png", results, notes)

    def _verdict(self, results: Results) -> list[str]:
        return verdict(results, len(self._arms), len(self._outcomes))

    def _as_json(self, results: Results) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "setting": self._sweep.flag.removeprefix("--"),
            "fix": "images" if self._sweep.is_fixed else "none",
            "statement": statement(self._sweep, self._arms),
            "chosen_on": "validation",
            "reported_on": "test",
            "verdict": self._verdict(results),
            **dataclasses.asdict(results),
            "arms": [self._arm_as_json(arm) for arm in self._arms if arm.name in self._recorded] + self._others,
        }

    def _arm_as_json(self, arm: Arm) -> dict[str, Any]:
        outcome = self._outcomes.get(arm.name)
        return {
            "name": arm.name,
            "settings": self._recorded[arm.name],
            "argv": list(arm.argv),
            "failure": self.failures.get(arm.name),
            "outcome": dataclasses.asdict(outcome) if outcome else None,
        }

    def _place(self, arm: Arm) -> str:
        return f"[{self._arms.index(arm) + 1}/{len(self._arms)}] {self._sweep.name}={arm.value} seed {arm.seed}"


def draw(path: Path, results: Results, notes: Sequence[str]) -> None:
    """Draw what is there to draw; nothing where no arm was tested. Raises OSError."""
    from penstock.telemetry.sweep_picture import Point, SweepCurve, draw_sweep

    rows = [row for row in results.rows if row.test is not None]
    if not rows:
        return
    floors = [("raw pixels", results.pixels), ("before training", results.before)]
    curve = SweepCurve(
        name=results.name,
        points=[Point(value=row.value, test=row.test, validation=row.validation) for row in rows if row.test],
        best=results.best.row.value if results.best and results.best.row in rows else None,
        floors=[(name, value) for name, value in floors if value is not None],
        notes=[note for note in notes if not note.startswith("Floors")],
    )
    draw_sweep(path, curve)


def _figures(outcome: Outcome) -> str:
    named = [("test", outcome.test), ("validation", outcome.validation)]
    parts = [f"{name} {value:.1%}" for name, value in named if value is not None]
    return ", ".join([*parts, f"{outcome.images:,} images made", f"{outcome.seconds:.0f} s"])


def _load(argv: Sequence[str]) -> TrainConfig:
    return load_config(TrainConfig, argv, preset_dir=preset_dir(), prog=PROG, description="")


def _launch(env: Mapping[str, str], argv: Sequence[str], log: Path) -> TrainerChild:
    return TrainerChild([sys.executable, "-m", "penstock.consumer", *argv], log, env)
