"""`penstock up`: a run with all its processes on this machine, from one command."""

import json
import logging
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from penstock.config.process import configure_logging
from penstock.consumer import run_folder
from penstock.deploy.demo import results
from penstock.deploy.plan_file import load_plan
from penstock.deploy.up_config import UpConfig
from penstock.deploy.up_logs import Logs
from penstock.deploy.up_processes import Processes
from penstock.deploy.up_run import UpRun
from penstock.protocol.addresses import nearby
from penstock.protocol.errors import ConfigError
from penstock.telemetry.terminal.view import is_wanted

_log = logging.getLogger(__name__)

DESCRIPTION = (
    "Start a run with all its processes on this machine, and see to them until it is over. A producer that crashes is "
    "started again; when a rank fails, all ends, with its status. Ctrl-C ends all in order, a second one at once. Each "
    "process has a log in RUN/logs.\n\n"
    "penstock up demo\n\n"
    "penstock up PLAN.yaml --producer-devices 0-5 --trainer-devices 6,7\n\n"
    "penstock up --producers 3 --train '--config demo --max-steps 200' --dry-run"
)


def main(argv: Sequence[str]) -> int:
    """Run it. Returns the ranks' exit status."""
    config = load_plan(UpConfig, argv, prog="penstock up", description=DESCRIPTION)
    _refuse_counts(config, argv)
    processes = Processes(config)
    if config.dry_run:
        endpoint = nearby(processes.train.stream.endpoint)
        if endpoint.endswith(":0"):
            print("# PORT is a free one that rank 0 takes and logs; name one with --stream.endpoint")
            endpoint = endpoint.removesuffix("0") + "PORT"
        for process in [*processes.ranks(), *processes.producers(endpoint)]:
            print(f"# {process.name} on {process.place}\n{process.in_a_shell}")
        return 0
    train = processes.train
    run_folder.check(train.run_dir, overwrite=train.overwrite, resume=train.resume, flag=train.folder_flag)
    with run_folder.lock(train.run_dir, train.folder_flag):
        pass  # no other trainer runs there, whose logs these would mix with
    configure_logging("up")
    gives_terminal = config.view == "trainer" or (config.view == "auto" and sys.stderr.isatty())
    width = max(len(process.name) for process in [*processes.ranks(), *processes.producers("")])
    with Logs(train.run_dir, width, keeps=train.resume, shows=not gives_terminal) as logs:
        _log.info("%s; logs in %s", describe(processes), logs.folder)
        run = UpRun(processes, logs, gives_terminal=gives_terminal, rank_arguments=_view(processes, gives_terminal))
        status = run.run()
        for line in _last_words(run, config, argv, train.run_dir, status):
            _log.info("%s", line)
    if status == 0:
        print("\n".join([*results(train.run_dir), f"logs     {logs.folder}"]))
    return status


def describe(processes: Processes) -> str:
    """What is started, in a line."""
    devices = processes.devices
    parts = [_count(devices.ranks, "rank", processes.rank_threads)]
    if devices.producers:
        parts.append(_count(devices.producers, "producer", processes.producer_threads or processes.produce.threads))
    return ", ".join(parts)


def _count(devices: Sequence[str], what: str, threads: int) -> str:
    is_one = len(devices) == 1
    gpus = ",".join(device.removeprefix("cuda:") for device in devices if device.startswith("cuda:"))
    text = f"{len(devices)} {what}{'' if is_one else 's'}"
    text += f" on GPU {gpus}" if gpus else ""
    text += f" with {threads} thread{'' if threads == 1 else 's'}" if threads else ""
    return text if is_one or not threads else f"{text} each"


def _view(processes: Processes, gives_terminal: bool) -> list[str]:
    """What tells rank 0 that the terminal is its own, which it doubts where it is not the only rank."""
    is_one_of_several = len(processes.devices.ranks) > 1
    wants = gives_terminal and is_one_of_several and processes.train.view == "auto"
    return ["--view", "full"] if wants and is_wanted("auto", is_shared=False) else []


def _refuse_counts(config: UpConfig, argv: Sequence[str]) -> None:
    """Refuse a number in the command beside a list of devices, which is a number too."""
    given = {word.partition("=")[0] for word in argv}
    for flag, devices in (("--producers", config.producer_devices), ("--ranks", config.trainer_devices)):
        if flag in given and devices:
            raise ConfigError(f"{flag} must be left out beside a list of devices, which are one for each: {devices}")


def _last_words(run: UpRun, config: UpConfig, argv: Sequence[str], run_dir: Path, status: int) -> Iterator[str]:
    """What a user may want to know at the end."""
    for producer in run.producers:
        if producer.num_crashes:
            times = "once" if producer.num_crashes == 1 else f"{producer.num_crashes} times"
            yield f"{producer.name} crashed {times}: {run.log_of(producer)}"
    if status and run.endpoint and (hint := resume_hint(argv, run_dir, overwrites=config.overwrite)):
        yield hint


def resume_hint(argv: Sequence[str], run_dir: Path, *, overwrites: bool = False) -> str | None:
    """How a run that has ended early, and may have overwritten another, goes on; None where it left no checkpoint."""
    if (step := _checkpoint_step(run_dir)) is None:
        return None
    words = [word for word in argv if word not in ("--overwrite", "--no-overwrite", "--resume")]
    words += ["--no-overwrite"] if overwrites and "--overwrite" not in argv else []  # the plan's file says it
    return f"to go on from step {step}: penstock up {shlex.join([*words, '--resume'])}"


def _checkpoint_step(run_dir: Path) -> int | None:
    """Where `--resume` would go on; None where it could not."""
    try:
        step = json.loads((run_dir / "checkpoint" / run_folder.CHECKPOINT_STATE).read_text())["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None
