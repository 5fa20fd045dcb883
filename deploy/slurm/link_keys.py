"""The keys of links that cross a cluster's network: everybody who has an account on it could dial the trainers."""

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

from penstock.deploy import keys
from penstock.deploy.slurm.plan import SlurmPlan
from penstock.protocol.errors import ConfigError

_PRODUCERS = "producers"
"""The name of the one key that all producers of an array have: they are one user's, and their files lie together."""


@dataclass(frozen=True, slots=True)
class LinkKeys:
    """What is given to both sides besides their own arguments; None where those name keys, or want none."""

    trainer: Path | None
    """The trainers' folder."""
    producer: Path | None
    """The file of all producers of the array."""


def planned_keys(plan: SlurmPlan) -> LinkKeys:
    """The plan's, or those that its arguments leave to this. Raises ConfigError where only one side names its own."""
    config, producer = plan.train_config(), plan.produce_config()
    if plan.keys:
        folder = Path(plan.keys).expanduser().absolute()
        return LinkKeys(folder, folder / f"{_PRODUCERS}.key")
    if bool(config.stream.keys) != bool(producer.key):
        raise ConfigError("train's --stream.keys and produce's --key belong together: name both, or neither")
    if config.stream.keys or config.stream.insecure:
        return LinkKeys(None, None)
    folder = plan.folder / "keys"
    return LinkKeys(folder, folder / f"{_PRODUCERS}.key")


def make_keys(plan: SlurmPlan) -> LinkKeys:
    """As `planned_keys`, made where there are none yet. Raises ConfigError, KeyFileError."""
    from penstock.protocol.keys import read_producer_key, read_trainer_keys

    planned = planned_keys(plan)
    if planned.trainer is None or planned.producer is None:
        return planned
    # What they say is for whoever carries keys by hand.
    with contextlib.redirect_stdout(io.StringIO()):
        if has_none := not planned.trainer.exists():
            keys.main(["init", str(planned.trainer)])
        if lacks_producers := not planned.producer.exists():
            keys.main(["add", str(planned.trainer), _PRODUCERS])
    if has_none:
        print(f"keys: made in {planned.trainer}")
    elif lacks_producers:
        print(f"keys: {planned.producer} made, and let in")
    # Here and now rather than on the nodes.
    read_trainer_keys(planned.trainer)
    read_producer_key(planned.producer)
    return planned
