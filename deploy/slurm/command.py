"""`penstock slurm`: submit a run to a Slurm cluster, see what its jobs are about, end them.

Two jobs: one for the trainers, and an array of producers that may start once the trainers run. They find each other by
the number of the trainers' job, so nothing but that number passes from one to the other, and a task of the array may
start, end and start again wherever and whenever the cluster likes.
"""

import contextlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.config.strict_yaml import did_you_mean
from penstock.consumer import run_folder
from penstock.deploy.plan_file import load_plan
from penstock.deploy.slurm import queue
from penstock.deploy.slurm.link_keys import LinkKeys, make_keys, planned_keys
from penstock.deploy.slurm.plan import SlurmPlan
from penstock.deploy.slurm.scripts import PRODUCE, TRAIN, produce_script, train_script
from penstock.protocol.errors import ConfigError

USAGE = """\
usage: penstock slurm submit CONFIG [--dry-run] [--FIELD VALUE ...]
       penstock slurm status CONFIG
       penstock slurm cancel CONFIG

Run trainers and producers as jobs of a Slurm cluster. CONFIG is a YAML file or a preset; docs/slurm.md explains it.

actions:
  submit    write the two batch scripts and submit them; --dry-run prints them instead
  status    list the jobs that CONFIG's folder tells of, and where their logs are
  cancel    end them

  penstock slurm submit --help    the plan's fields
"""
_ACTIONS = ("submit", "status", "cancel")
_JOBS = "jobs.json"
DESCRIPTION = (
    "Submit a run to Slurm: a job for the trainers, and a requeueable array of producers that finds them. "
    "CONFIG is a plan, a YAML file or a preset, as `penstock up` takes it."
)


@dataclass(frozen=True, slots=True)
class Jobs:
    """The numbers of a run's two jobs."""

    trainer: str
    producers: str


def main(argv: Sequence[str]) -> int:
    """Do what the first argument names. Returns the exit status."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0 if argv else 2
    action, *rest = argv
    if action not in _ACTIONS:
        hint = did_you_mean(action, _ACTIONS)
        raise ConfigError(f"no such action: {action}{hint} (see penstock slurm --help)")
    if not rest:
        raise ConfigError(f"penstock slurm {action} needs CONFIG: a YAML file or a preset, such as demo")
    if action == "submit":
        plan = read_plan(rest)
        show(plan) if plan.dry_run else submit(plan)
        return 0
    plan = read_plan(rest)
    jobs = _read_jobs(plan)
    if jobs is None:
        raise ConfigError(f"{plan.folder} tells of no jobs; `penstock slurm submit` puts {_JOBS} there")
    return _status(plan, jobs) if action == "status" else _cancel(plan, jobs)


def read_plan(argv: Sequence[str]) -> SlurmPlan:
    """The plan that the arguments name. Raises ConfigError."""
    return load_plan(SlurmPlan, argv, prog="penstock slurm submit", description=DESCRIPTION)


def show(plan: SlurmPlan) -> None:
    """Print what `submit` would write and call. Raises ConfigError."""
    plan.check()
    for name, text in _scripts(plan, planned_keys(plan)).items():
        print(f"# {plan.folder / name}\n{text}")
    trainer = "TRAINER_JOB"
    print(shlex.join(["sbatch", str(plan.folder / TRAIN)]))
    print(shlex.join(["sbatch", *_producers_options(plan, trainer), str(plan.folder / PRODUCE), trainer]))


def submit(plan: SlurmPlan) -> Jobs:
    """Write scripts and keys, submit both jobs, and say so.

    Raises:
        ConfigError: Slurm refuses a job, or the folder's jobs are still there.
        RunError: there is no Slurm, or the run folder is taken.
        KeyFileError: keys that lie in the folder cannot be used.
    """
    plan.check()
    config = plan.train_config()
    run_folder.check(config.run_dir, overwrite=config.overwrite, resume=config.resume)
    earlier = _read_jobs(plan)
    if earlier is not None and queue.listed([earlier.trainer, earlier.producers]):
        raise ConfigError(
            f"the jobs of {plan.folder} are still there ({earlier.trainer}, {earlier.producers}); "
            "end them with penstock slurm cancel, or give this run another --slurm.folder"
        )
    keys = make_keys(plan)
    (plan.folder / "logs").mkdir(parents=True, exist_ok=True)
    for name, text in _scripts(plan, keys).items():
        (plan.folder / name).write_text(text, encoding="utf-8")
    with contextlib.ExitStack() as undo:  # Ctrl-C too leaves no job that nothing tells of
        trainer = queue.submit(plan.folder / TRAIN)
        undo.callback(queue.cancel, [trainer])
        producers = queue.submit(plan.folder / PRODUCE, trainer, options=_producers_options(plan, trainer))
        undo.callback(queue.cancel, [producers])
        told = json.dumps({"trainer": trainer, "producers": producers})
        (plan.folder / _JOBS).write_text(f"{told}\n", encoding="utf-8")
        undo.pop_all()
    print(f"trainers: job {trainer}, {plan.folder}/logs/train-{trainer}.log")
    print(f"producers: job {producers}, an array of {plan.producers}, {plan.folder}/logs/produce-{producers}_*.log")
    return Jobs(trainer, producers)


def _scripts(plan: SlurmPlan, keys: LinkKeys) -> Mapping[str, str]:
    return {TRAIN: train_script(plan, keys.trainer), PRODUCE: produce_script(plan, keys.producer)}


def _producers_options(plan: SlurmPlan, trainer: str) -> Sequence[str]:
    # By this name the trainers' job ends what is left of the producers.
    return [f"--dependency=after:{trainer}", f"--job-name={plan.slurm.name}-produce-{trainer}"]


def _status(plan: SlurmPlan, jobs: Jobs) -> int:
    lines = queue.listed([jobs.trainer, jobs.producers])
    rows = [line.split("|") for line in ["JOB|NAME|STATE|TIME|NODES|REASON", *lines]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows if lines else []:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    print(f"{'logs' if lines else 'no job is left; logs'}: {plan.folder}/logs")
    return 0


def _cancel(plan: SlurmPlan, jobs: Jobs) -> int:
    queue.cancel([jobs.trainer, jobs.producers])
    print(f"asked to end: {jobs.trainer}, {jobs.producers}")
    return 0


def _read_jobs(plan: SlurmPlan) -> Jobs | None:
    """None where nothing was submitted from the plan's folder."""
    path: Path = plan.folder / _JOBS
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return Jobs(str(stored["trainer"]), str(stored["producers"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} cannot be read: {error!r}; delete it if its jobs are over") from error
