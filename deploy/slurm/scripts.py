"""The two batch scripts of a plan: templates beside this file, and what the plan puts into them.

All that differs from run to run stands in a block of settings at a script's top; the rest is the same for all, so that
what is read and tested once holds for every cluster.
"""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from penstock.deploy.slurm.plan import SlurmPlan, produce_directives, shell_line, train_directives

_TEMPLATES = Path(__file__).parent
TRAIN = "train.sbatch"
PRODUCE = "produce.sbatch"

_ACCELERATE = """\
launch=(-m accelerate.commands.launch --num_machines "$SLURM_NNODES" --machine_rank "$SLURM_NODEID"
    --num_processes "$((SLURM_NNODES * ranks_per_node))" --main_process_ip "$main" --main_process_port "$((port - 1))"
    --mixed_precision no --dynamo_backend no{multi_gpu})"""
_TORCHRUN = """\
export ACCELERATE_USE_CPU=True
  launch=(-m torch.distributed.run --nnodes "$SLURM_NNODES" --node-rank "$SLURM_NODEID"
    --nproc-per-node "$ranks_per_node" --master-addr "$main" --master-port "$((port - 1))")"""
_PORTS = (10_000, 340, 64)
"""Where ports derived from a job's number begin, how many places there are, and how many ports each has: all below
those that Linux gives to outgoing connections."""


def train_script(plan: SlurmPlan, keys: Path | None) -> str:
    """The batch script of the trainers; `keys` is the folder of theirs, None for links without keys."""
    arguments = [*plan.train_arguments, *(["--stream.keys", str(keys)] if keys else [])]
    settings = _settings(plan, plan.slurm.trainer.requeue, "$SLURM_JOB_ID") | {
        "name": shlex.quote(plan.slurm.name),
        "run_dir": shlex.quote(str(plan.train_config().run_dir)),
        "ranks_per_node": str(plan.ranks_per_node),
        "train": _array(arguments),
    }
    # Accelerate leaves several processes on the CPU to MPI; torchrun, which it calls itself on GPUs, does not.
    multi_gpu = " --multi_gpu" if plan.ranks > 1 else ""
    launch = _ACCELERATE.format(multi_gpu=multi_gpu) if plan.slurm.trainer.gpus else _TORCHRUN
    return _fill(TRAIN, plan, train_directives(plan), plan.slurm.trainer.cpus, settings, launch)


def produce_script(plan: SlurmPlan, key: Path | None) -> str:
    """The batch script of the producers; `key` is the file of theirs, None for links without keys."""
    several = ["--devices", "all"] if plan.slurm.producer.gpus > 1 else []
    arguments = [*several, *plan.produce_arguments, *(["--key", str(key)] if key else [])]
    settings = _settings(plan, plan.slurm.producer.requeue, "$trainer") | {
        "produce": _array(arguments),
        "wait_s": str(plan.slurm.wait_s),
        "restarts": str(plan.slurm.restarts),
    }
    return _fill(PRODUCE, plan, produce_directives(plan), plan.slurm.producer.cpus, settings)


def _settings(plan: SlurmPlan, requeue: bool, job: str) -> dict[str, str]:
    first, num_places, size = _PORTS
    # One above the first of its place, which is the rendezvous's.
    derived = f"$(({first} + {job.removeprefix('$')} % {num_places} * {size} + 1))"
    return {
        "folder": shlex.quote(str(plan.folder)),
        "python": shlex.quote(plan.python),
        "port": str(plan.slurm.port) if plan.slurm.port else derived,
        "requeue": "yes" if requeue else "no",
    }


def _fill(
    template: str,
    plan: SlurmPlan,
    directives: Sequence[str],
    threads: int,
    settings: Mapping[str, str],
    launch: str = "",
) -> str:
    lines = [f"{name}={value}" for name, value in settings.items()]
    lines += [f"export OMP_NUM_THREADS={threads}"]
    text = (_TEMPLATES / template).read_text(encoding="utf-8")
    pieces = {
        "directives": "\n".join(map(shell_line, directives)),
        "settings": "\n".join(lines),
        "setup": plan.slurm.setup.rstrip(),
        "functions": (_TEMPLATES / "functions.sh").read_text(encoding="utf-8"),
        "launch": launch,
    }
    # Line by line: what a plan holds is never looked through for further marks.
    return "".join(_line(line, pieces) for line in text.splitlines(keepends=True))


def _line(line: str, pieces: Mapping[str, str]) -> str:
    mark = line.strip()
    if not (mark.startswith("@") and mark.endswith("@")):
        return line
    return line.replace(mark, pieces[mark.strip("@")])


def _array(words: Sequence[str]) -> str:
    """Words as a bash array, as many on a line as it holds."""
    return f"({' '.join(map(shlex.quote, words))})"
