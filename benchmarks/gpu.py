"""Every figure of this project that needs a GPU, in one call of under eight minutes on one card.

    python benchmarks/gpu.py --json benchmarks/results/gpu.json

Needs torch and triton beside the clone, which need not be installed: a machine with a GPU is often bare. What cannot be
measured there (kornia or torchvision not installed, a matrix larger than the memory, no time left) stands in the
figures under `not_measured` with its reason, never as a number.

- `augment`: images/s of the strong recipe, uint8 256² to bfloat16 224², for every way in `baselines/gpu_augment.py`.
- `loss`: ms of forward and backward and peak bytes of `multipos_loss` at N = 8k to 128k, D = 256, in full float32 and
  with TF32, beside the time of 6 N² D and of 4 N² D operations at the rate that a large product reaches on this card.

- `generate`: images/s of the engines on models in the real shapes of Stable Diffusion 1.5, 2.1-turbo and XL-turbo with
  random weights, beside diffusers' own call and the floor. Needs diffusers, transformers, and what the wire needs.

`--rehearse` does the same, tiny, on the CPU: it shows that the script runs and measures nothing.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

if find_spec("penstock") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / ".typings"))

import harness
import torch
from baselines import gpu_augment, gpu_generate, gpu_loss
from baselines.gpu_timing import Session
from harness import BenchmarkError

BUDGET_S = 440.0
PARTS = {"augment": gpu_augment.measure, "loss": gpu_loss.measure, "generate": gpu_generate.measure}
PACKAGES = ("torch", "triton", "diffusers", "transformers", "xformers", "torch-tensorrt", "kornia", "torchvision")
QUERY = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.draw,power.limit,temperature.gpu"


def card() -> dict[str, str]:
    """What the driver says of the card now: its name, clocks, power; where it says nothing, torch's name alone."""
    command = ["nvidia-smi", f"--id={torch.cuda.current_device()}", f"--query-gpu={QUERY}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return {"name": torch.cuda.get_device_name()}
    return dict(zip(QUERY.split(","), (value.strip() for value in done.stdout.splitlines()[0].split(",")), strict=True))


def measure(session: Session, parts: Sequence[str]) -> dict[str, object]:
    """The figures of `parts`, in their order."""
    small = session.device.type == "cpu"
    figures: dict[str, object] = {}
    for part in parts:
        figures[part] = PARTS[part](session, small)
        figures["card_under_load"] = {} if small else card()
    return figures


def main() -> int:
    """Run the benchmark. Returns the exit status."""
    parser = harness.parser(__doc__)
    parser.add_argument("--budget", type=float, default=BUDGET_S, metavar="S", help=f"start nothing later ({BUDGET_S})")
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes on the CPU, to see that the script runs")
    parser.add_argument("--parts", default=",".join(PARTS), metavar="NAME,…", help=f"of {', '.join(PARTS)} (all)")
    options = parser.parse_args()
    parts = options.parts.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        raise BenchmarkError(f"there is no part {unknown[0]!r}; choose from {', '.join(PARTS)}")
    if not options.rehearse and not torch.cuda.is_available():
        raise BenchmarkError(f"no GPU: torch {torch.__version__} finds no CUDA device; these figures need one")
    device = torch.device("cpu" if options.rehearse else "cuda")
    before = {} if options.rehearse else card()
    session = Session(device, options.budget)
    result = {"rehearsal": options.rehearse, "card": before, **measure(session, parts)}
    result |= {"not_measured": session.not_measured, "seconds": round(time.monotonic() - session.started, 1)}
    harness.write_json(options.json, result, PACKAGES)
    return 0


if __name__ == "__main__":
    harness.run(main)
