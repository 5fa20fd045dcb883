"""`penstock demo`: the whole way of the data on this machine, by `accelerate launch` as any run takes it."""

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from shutil import which

from penstock.config.load import load_config
from penstock.consumer.config import TrainConfig
from penstock.deploy.launch import run_group
from penstock.protocol.errors import PenstockError

DESCRIPTION = (
    "Train a small Vision Transformer on images that a small Stable Diffusion makes meanwhile. "
    "Where --config is left out it is `--config demo --run-dir runs/demo`, whatever defaults stand below."
)

# Everything that a user's Accelerate configuration would otherwise decide. One thread a process: with more,
# two processes on two cores run many times slower than with one each.
LAUNCH = (
    *("-m", "accelerate.commands.launch", "--quiet", "--cpu"),
    *("--num_processes", "1", "--num_machines", "1", "--num_cpu_threads_per_process", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no"),
    *("-m", "penstock.consumer"),
)

DEFAULTS = ("--config", "demo", "--run-dir", "runs/demo")

TRY_NEXT = """
Try next:
{activate}  penstock replay {run} --step 0 --out grid.png   # a step's images, made again and checked bit for bit
  penstock audit {run}                            # what was asked for, what is shown, whom the encoder fails
  penstock demo --overwrite --generator.guidance-scale 1   # images that heed their prompt less
  penstock train --help                                    # every setting
  python -c "from transformers import AutoModel; AutoModel.from_pretrained('{encoder}', add_pooling_layer=False)"
"""


def main(argv: Sequence[str]) -> int:
    """Run the demo, with `argv` as further flags of the trainer, and say where its results lie."""
    if not any(word.partition("=")[0] == "--config" for word in argv):
        argv = [*DEFAULTS, *argv]  # a later --run-dir counts
    # Read here as well as in the trainer, so that a mistake or --help costs no start of the trainer.
    config = load_config(TrainConfig, argv, preset_dir=preset_dir(), prog="penstock demo", description=DESCRIPTION)
    code = run_group(command(argv))
    if code == 0:
        print(farewell(config.run_dir))
    return code


def command(argv: Sequence[str]) -> list[str]:
    """The launch of a trainer of one process with the arguments `argv`."""
    return [sys.executable, *LAUNCH, *argv]


def results(run_dir: Path) -> list[str]:
    """Where the results of a finished run lie, a line each."""
    found = [("summary", run_dir / "summary.json")]
    found += [("picture", path) for path in sorted(run_dir.glob("*.png"))]
    found += [("encoder", run_dir / "encoder")]
    return [f"{name:8} {path}" for name, path in found if path.exists()]


def farewell(run_dir: Path) -> str:
    """Where the results of a finished run lie, and what to try next."""
    lines = results(run_dir)
    next_steps = TRY_NEXT.rstrip("\n").format(activate=activation(), run=run_dir, encoder=run_dir / "encoder")
    return "\n".join(lines) + "\n" + next_steps


def activation() -> str:
    """The line that puts `penstock` into the user's shell, which `make demo` does not; empty where it is there."""
    script = Path(sys.executable).with_name("activate")
    if which("penstock") or not script.is_file():
        return ""
    relative = os.path.relpath(script)
    return f"  source {script if relative.startswith(os.pardir) else relative}   # once in a shell\n"


def preset_dir() -> Path:
    """Where the trainer's presets lie, found without importing it."""
    spec = find_spec("penstock.consumer")
    if spec is None or spec.origin is None:
        raise PenstockError("penstock.consumer is not installed; run `make setup`")
    return Path(spec.origin).parent / "presets"
