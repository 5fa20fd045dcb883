"""The command `penstock`: finds the verb and hands the rest to it. Imports nothing that is slow to load."""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata

from penstock.config import process
from penstock.protocol.errors import ConfigError

USAGE = """\
usage: penstock VERB [ARGUMENTS]

Stream synthetic images from Stable Diffusion producers to Vision Transformer trainers while both run.

verbs:
  demo      train a small encoder on a small generator's images, here and now, in minutes
  produce   make images for a run: connects to its trainer and works on the tickets it gives
  compile   build a model for a compiled backend ahead, so that producers start in seconds
  train     train on images that producers make meanwhile (one process; `accelerate launch` for more)
  up        start a run with all its processes on this machine: penstock up CONFIG
  slurm     run trainers and producers as jobs of a Slurm cluster: penstock slurm submit CONFIG
  ray       start the producers of a run as actors of a Ray cluster: penstock ray CONFIG --connect ADDRESS
  keys      let producers of other machines in, and out again: penstock keys init|add|revoke|list DIR
  evaluate  measure an encoder on labelled images that it was not trained on: penstock evaluate ENCODER --data SPEC
  profile   measure which side bounds a run, and what would make it faster; compare two profiles
  sweep     train one arm for each value of a setting, and draw the curve
  ledger    ask a run what it trained on, step by step: penstock ledger RUN --step K
  replay    make a step's images again and check them against the ledger: penstock replay RUN --step K --out grid.png
  export    make a whole run's images again as a data set: penstock export RUN --format webdataset --out DIR
  attribute find the training groups nearest to an image, and show them: penstock attribute RUN IMAGE
  audit     compare what prompts asked for with what images show, group by group: penstock audit RUN
  doctor    say what is installed, what works on this machine, and what to do about the rest

  penstock VERB --help    the verb's settings
  penstock --version      the version

pages, in the folder docs: fleet.md (several processes, machines, GPUs), operations.md (addresses, keys, metrics),
slurm.md, ray.md, kubernetes.md, containers.md, security.md; README.md leads to the others
"""


def _demo(argv: Sequence[str]) -> int:
    from penstock.deploy import demo

    return demo.main(argv)


def _produce(argv: Sequence[str]) -> int:
    from penstock.producer.__main__ import main as produce

    return produce(argv)


def _compile(argv: Sequence[str]) -> int:
    from penstock.producer.preparing import main as prepare

    return prepare(argv)


def _train(argv: Sequence[str]) -> int:
    from penstock.consumer.__main__ import main as train

    return train(argv)


def _up(argv: Sequence[str]) -> int:
    from penstock.deploy import up

    return up.main(argv)


def _slurm(argv: Sequence[str]) -> int:
    from penstock.deploy.slurm import command

    return command.main(argv)


def _evaluate(argv: Sequence[str]) -> int:
    from penstock.consumer.evaluation.command import main as evaluate

    return evaluate(argv)


def _profile(argv: Sequence[str]) -> int:
    from penstock.deploy import profile

    return profile.main(argv)


def _sweep(argv: Sequence[str]) -> int:
    from penstock.deploy import sweep

    return sweep.main(argv)


def _ledger(argv: Sequence[str]) -> int:
    from penstock.deploy import ledger

    return ledger.main(argv)


def _replay(argv: Sequence[str]) -> int:
    from penstock.deploy import replay

    return replay.main(argv)


def _export(argv: Sequence[str]) -> int:
    from penstock.deploy import export

    return export.main(argv)


def _attribute(argv: Sequence[str]) -> int:
    from penstock.deploy import attribute

    return attribute.main(argv)


def _audit(argv: Sequence[str]) -> int:
    from penstock.deploy import audit

    return audit.main(argv)


def _ray(argv: Sequence[str]) -> int:
    from penstock.deploy import ray_fleet

    return ray_fleet.main(argv)


def _keys(argv: Sequence[str]) -> int:
    from penstock.deploy import keys

    return keys.main(argv)


def _doctor(argv: Sequence[str]) -> int:
    from penstock.deploy import doctor

    return doctor.main(argv)


VERBS: Mapping[str, Callable[[Sequence[str]], int]] = {
    "demo": _demo,
    "produce": _produce,
    "compile": _compile,
    "train": _train,
    "up": _up,
    "slurm": _slurm,
    "evaluate": _evaluate,
    "profile": _profile,
    "sweep": _sweep,
    "ledger": _ledger,
    "replay": _replay,
    "export": _export,
    "attribute": _attribute,
    "audit": _audit,
    "ray": _ray,
    "keys": _keys,
    "doctor": _doctor,
}


def main() -> None:
    """Entry point of the installed command."""
    process.run(lambda: dispatch(sys.argv[1:]))


def dispatch(argv: Sequence[str]) -> int:
    """Run the verb that `argv` begins with and return its exit status.

    Raises:
        ConfigError: no such verb.
    """
    if not argv:
        print(USAGE, end="", file=sys.stderr)
        return 2
    verb, *rest = argv
    if verb in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    if verb == "--version":
        print(f"penstock {metadata.version('penstock')}")
        return 0
    if verb not in VERBS:
        raise ConfigError(f"no such verb: {verb}{_nearest(verb)} (see penstock --help)")
    return VERBS[verb](rest)


def _nearest(verb: str) -> str:
    from penstock.config.strict_yaml import did_you_mean  # reads yaml: only for a mistake

    return did_you_mean(verb, VERBS)
