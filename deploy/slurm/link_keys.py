"""The keys of links that cross a cluster's network: everybody who has an account on it could dial the trainers."""

from dataclasses import dataclass
from pathlib import Path

from penstock.deploy.slurm.plan import SlurmPlan
from penstock.protocol.errors import ConfigError


@dataclass(frozen=True, slots=True)
class LinkKeys:
    """What is given to both sides besides their own arguments; None where those name keys, or want none."""

    trainer: Path | None
    """The trainers' folder."""
    producer: Path | None
    """The file of all producers of the array."""


def planned_keys(plan: SlurmPlan) -> LinkKeys:
    """Those that the plan's own arguments leave to this. Raises ConfigError where only one side names its own."""
    config, producer = plan.train_config(), plan.produce_config()
    if bool(config.stream.keys) != bool(producer.key):
        raise ConfigError("train's --stream.keys and produce's --key belong together: name both, or neither")
    if config.stream.keys or config.stream.insecure:
        return LinkKeys(None, None)
    folder = plan.folder / "keys"
    return LinkKeys(folder, folder / "producers.key")


def make_keys(plan: SlurmPlan) -> LinkKeys:
    """As `planned_keys`, made where they are not there yet. Raises ConfigError, KeyFileError."""
    import json
    import os

    import zmq

    keys = planned_keys(plan)
    if keys.trainer is not None and keys.producer is not None and not keys.trainer.exists():
        keys.trainer.mkdir(parents=True, mode=0o700)
        pairs = [[text.decode() for text in zmq.curve_keypair()] for _ in range(2)]
        old = os.umask(0o077)
        (keys.trainer / "trainer.key").write_text(json.dumps({"public": pairs[0][0], "secret": pairs[0][1]}))
        (keys.trainer / "allowed").write_text(f"producers {pairs[1][0]}\n")
        keys.producer.write_text(json.dumps({"public": pairs[1][0], "secret": pairs[1][1], "trainer": pairs[0][0]}))
        os.umask(old)
    return keys
