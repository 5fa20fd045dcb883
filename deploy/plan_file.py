"""The plan's file, one for all launchers: each reads its own part, and leaves those of the others alone.

A part that is not read is checked all the same, so that a mistake is found by whoever reads the file first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar, get_type_hints

from penstock.config.load import load_config
from penstock.deploy.fleet_plan import PRESETS, FleetPlan, ProducerPlan
from penstock.deploy.ray_plan import RayConfig
from penstock.deploy.slurm.plan import SlurmConfig

P = TypeVar("P", bound=ProducerPlan)

_SECTIONS: Mapping[str, type[Any]] = {"slurm": SlurmConfig, "ray": RayConfig}
"""Of one launcher each. The fields of `FleetPlan` are for all; `penstock ray` has no use for the trainers'."""


def load_plan(cls: type[P], argv: Sequence[str], *, prog: str, description: str) -> P:
    """The plan that the arguments name: CONFIG first, with or without `--config`, then fields that override it.

    Args:
        cls: what one launcher reads.
        argv: its arguments.
        prog: its name in the help.
        description: a sentence or two for the help.

    Raises:
        ConfigError: as `load_config`.
    """
    named = ["--config", *argv] if argv and not argv[0].startswith("-") else argv
    own = {field.name for field in fields(cls)}
    others = {**get_type_hints(FleetPlan), **_SECTIONS}
    unread = {name: kind for name, kind in others.items() if name not in own}
    return load_config(cls, named, preset_dir=PRESETS, prog=prog, description=description, unread=unread)
