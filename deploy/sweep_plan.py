"""What a sweep is to run: arms that differ in one setting, and in what must follow so that they compare. Runs nothing.

All arms of a seed share prompts, noise, augmentations and initial weights: in ticket order these follow from the seed
and a group's place in the stream alone. So the difference between two arms is the setting's, not the luck's.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from penstock.consumer.config import TrainConfig
from penstock.deploy.sweep_arguments import ALIASES, Sweep, as_file_name, whole
from penstock.protocol.errors import ConfigError

Load = Callable[[Sequence[str]], TrainConfig]
"""Reads a trainer's arguments; raises ConfigError."""

_WITHOUT_EFFECT = ("run_dir", "overwrite", "resume", "checkpoint_every_steps", "stream", "tracking")
"""Settings, or sections of them, that change no result."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One run of a sweep."""

    name: str
    """Also its folder's."""
    value: str
    seed: int
    argv: tuple[str, ...]
    """Of the trainer, but for `--resume` and `--overwrite`."""
    config: TrainConfig
    """What `argv` says."""
    adjusted: Mapping[str, str]
    """Flags that follow from the value."""

    @property
    def digest(self) -> str:
        """Changes with every setting that can change a result."""
        settings = {k: v for k, v in dataclasses.asdict(self.config).items() if k not in _WITHOUT_EFFECT}
        return hashlib.blake2b(json.dumps(settings, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()


def plan(sweep: Sweep, load: Load) -> list[Arm]:
    """All arms, seed after seed, so that a first curve stands early.

    Raises:
        ConfigError: a setting of an arm that cannot be, or that cannot be compared.
    """
    given = {word.partition("=")[0].replace("_", "-") for word in sweep.flags}
    shared = list(sweep.flags)
    shared += [] if "--config" in given else ["--config", "demo"]
    shared += [] if "--order" in given else ["--order", "ticket"]
    base = load(shared)
    if base.fleet.local_producers and "--stream.endpoint" not in given:
        shared += ["--stream.endpoint", "tcp://127.0.0.1:0"]
    _check_comparable(base)
    _check_parallel(sweep, load(shared))
    variants = [_variant(sweep, value, base, shared, load) for value in sweep.values]
    return [_arm(sweep, *variant, seed) for seed in sweep.seeds for variant in variants]


def _check_comparable(base: TrainConfig) -> None:
    if base.evaluation.data == "none":
        raise ConfigError("evaluation.data is none: arms are compared by kNN; pass --evaluation.data toyworld")


def _check_parallel(sweep: Sweep, base: TrainConfig) -> None:
    if sweep.parallel == 1:
        return
    if not base.fleet.local_producers:
        raise ConfigError("--parallel needs arms that start their own producers; pass --fleet.local-producers 1")
    if not base.stream.endpoint.endswith(":0"):
        raise ConfigError(f"--parallel needs a free port for each arm, got --stream.endpoint {base.stream.endpoint}")


_Variant = tuple[str, tuple[str, ...], TrainConfig, Mapping[str, str]]


def _variant(sweep: Sweep, value: str, base: TrainConfig, shared: Sequence[str], load: Load) -> _Variant:
    """A value with the arguments and settings of its arms, and the flags that follow from it."""
    try:
        adjusted = adjustments(sweep.flag, value, base) if sweep.is_fixed else {}
        argv = [*shared, *_assign(base, sweep.flag, value)]
        argv += [word for flag, number in adjusted.items() for word in (flag, number)]
        return value, tuple(argv), load(argv), adjusted
    except ConfigError as error:
        raise ConfigError(f"{sweep.name}={value}: {error}") from error


def _arm(
    sweep: Sweep, value: str, argv: Sequence[str], config: TrainConfig, adjusted: Mapping[str, str], seed: int
) -> Arm:
    name = f"{as_file_name(sweep.name)}-{as_file_name(value)}-seed-{seed}"
    run_dir = sweep.out / name
    return Arm(
        name=name,
        value=value,
        seed=seed,
        argv=(*argv, "--seed", str(seed), "--run-dir", str(run_dir)),
        config=dataclasses.replace(config, seed=seed, run_dir=run_dir),
        adjusted=adjusted,
    )


def _assign(base: TrainConfig, flag: str, value: str) -> list[str]:
    """The words that set `flag`; a switch is `--section.name` or `--section.no-name`."""
    current: Any = base
    for part in flag.removeprefix("--").split("."):
        current = getattr(current, part.replace("-", "_"))
    if not isinstance(current, bool):
        return [flag, value]
    if value not in ("true", "false"):
        raise ConfigError(f"expected true or false, got {value!r}")
    section, dot, name = flag.removeprefix("--").rpartition(".")
    return [flag if value == "true" else f"--{section}{dot}no-{name}"]


def adjustments(flag: str, value: str, base: TrainConfig) -> dict[str, str]:
    """What must change with a setting so that all arms use up as many images and train on as many rows a step.

    Let G groups of m images a step be used e times each over S steps, u images at a use (m unless images_per_use says
    otherwise): a step has G·u rows, the run uses up S·G·m/e images.
    - m, all images used: G goes with 1/m. S and e stay.
    - m, u of them used: e goes with m, so that an image is used as often. S and G stay.
    - e: S goes with e; images, rows and steps cannot all stay.
    The reservoir and the window, which are counted in groups, keep their images.

    Raises ConfigError where that is no whole number.
    """
    if flag == ALIASES["m"]:
        before, now = base.generator.images_per_group, whole("images_per_group", value, least=1)
        follows = {
            "--reservoir.capacity-groups": max(1, base.reservoir.capacity_groups * before // now),
            "--stream.window-groups": max(1, base.stream.window_groups * before // now),
        }
        if base.reservoir.images_per_use:
            follows["--reservoir.reuse"] = _exact("reuse", base.reservoir.reuse * now, before)
        else:
            follows["--groups-per-step"] = _exact("groups_per_step", base.groups_per_step * before, now)
        return {name: str(number) for name, number in follows.items()}
    if flag == ALIASES["reuse"]:
        now = whole("reuse", value, least=1)
        return {"--max-steps": str(_exact("max_steps", base.max_steps * now, base.reservoir.reuse))}
    return {}


def _exact(what: str, number: int, divisor: int) -> int:
    if number % divisor:
        raise ConfigError(
            f"for equal images {what} would be {number}/{divisor}, no whole number; choose another value, or --fix none"
        )
    return number // divisor


def statement(sweep: Sweep, arms: Sequence[Arm]) -> list[str]:
    """What is equal among the arms, what is not, and what to keep in mind: sentences."""
    configs = {arm.value: arm.config for arm in arms}
    equal, unequal = [], []
    for what, count in _COUNTS.items():
        counts = {value: count(config) for value, config in configs.items()}
        if len(set(counts.values())) == 1:
            equal.append(f"{what} ({next(iter(counts.values())):,})")
        else:
            unequal.append(f"{what} (" + ", ".join(f"{value}: {number:,}" for value, number in counts.items()) + ")")
    lines = [f"Equal in all arms: {', '.join(equal) or 'neither steps, nor rows, nor images'}."]
    if unequal:
        lines.append(f"Not equal: {', '.join(unequal)}.")
    for arm in {arm.value: arm for arm in arms if arm.adjusted}.values():
        lines.append(f"With {sweep.name}={arm.value}: {' '.join(f'{k} {v}' for k, v in arm.adjusted.items())}.")
    if any(config.order == "arrival" for config in configs.values()):
        lines.append("In arrival order the arms of a seed share prompts, but not which step uses which.")
    if any(config.images_per_use == 1 and config.objective.name == "stablerep" for config in configs.values()):
        lines.append("With one image a prompt StableRep's only positives are captions that occur twice.")
    if not all(config.fleet.local_producers for config in configs.values()):
        endpoint = next(iter(configs.values())).stream.endpoint
        lines.append(f"Arms start no producers (fleet.local_producers 0): each waits for some at {endpoint}.")
    return lines


_COUNTS: Mapping[str, Callable[[TrainConfig], int]] = {
    "optimizer steps": lambda config: config.max_steps,
    "rows a step": lambda config: config.groups_per_step * config.images_per_use,
    "images used up": lambda config: math.ceil(
        config.max_steps
        * config.groups_per_step
        * config.generator.images_per_group
        / config.reservoir.reuse_policy.max_reuse
    ),
}
