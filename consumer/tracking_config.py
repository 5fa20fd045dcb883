"""Which experiment trackers a run tells of itself. Without torch: a missing package is said before it is loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec

from penstock.config.rules import require
from penstock.config.strict_yaml import did_you_mean
from penstock.protocol.errors import ConfigError

_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "aim": ("aim",),
    "clearml": ("clearml",),
    "comet_ml": ("comet_ml",),
    "dvclive": ("dvclive",),
    "mlflow": ("mlflow", "mlflow-skinny"),
    "swanlab": ("swanlab",),
    "tensorboard": ("tensorboard", "tensorboardX"),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
}
"""The packages, as pip names them, any of which gives Accelerate the tracker; the first is the one to install."""


AUTO = "auto"
"""TensorBoard where it is installed, and figures alone: an image is kept only where somebody asks for it by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingConfig:
    """Experiment trackers that Accelerate knows; see docs/tracking.md."""

    trackers: tuple[str, ...] = (AUTO,)
    """Any of aim, clearml, comet_ml, dvclive, mlflow, swanlab, tensorboard, trackio, wandb, or none at all. `auto`:
    figures for TensorBoard where it is installed, without images."""
    project: str = "penstock"
    """What the trackers file the run under."""
    images_every_steps: int = 500
    """Steps between two sample grids of prompts with their images, for trackers that are named and take images; 0 sends
    none. The grids are kept: by the tracker, wherever it keeps things."""

    def __post_init__(self) -> None:
        require(AUTO not in self.trackers or self.is_auto, "trackers must be auto alone, or names", self.trackers)
        for name in () if self.is_auto else self.trackers:
            if name not in _PACKAGES:
                known = ", ".join(_PACKAGES)
                close = did_you_mean(name, _PACKAGES)
                raise ConfigError(f"trackers must be among {known}, or auto, or left empty, got {name!r}{close}")
        require(len(set(self.trackers)) == len(self.trackers), "trackers must name each once", self.trackers)
        require(
            bool(self.project)
            and self.project.isprintable()
            and not set(self.project) & set("/\\")
            and self.project.strip(". ") != "",
            "project must be a name that can be a folder's",
            self.project,
        )
        require(self.images_every_steps >= 0, "images_every_steps must be >= 0", self.images_every_steps)

    @property
    def is_auto(self) -> bool:
        """Whether nobody has named a tracker, or said that there shall be none."""
        return self.trackers == (AUTO,)

    @property
    def chosen(self) -> tuple[str, ...]:
        """The trackers that hear of the run. Raises ConfigError where the package of one that is named is missing."""
        if self.is_auto:
            return ("tensorboard",) if _has_package("tensorboard") else ()
        check_installed(self.trackers)
        return self.trackers


def check_installed(trackers: Sequence[str]) -> None:
    """Raise ConfigError, with what to install, where a tracker's package is missing.

    Accelerate itself passes over such a tracker with a warning.
    """
    missing = [_PACKAGES[name][0] for name in trackers if not _has_package(name)]
    if missing:
        listed = " and ".join(missing)
        raise ConfigError(f"tracking.trackers: {listed} is not installed here; run: pip install {' '.join(missing)}")


def _has_package(tracker: str) -> bool:
    return any(_is_installed(package) for package in _PACKAGES[tracker])


def _is_installed(package: str) -> bool:
    """Whether the package itself is there, and not merely a folder of its name."""
    module = "mlflow" if package == "mlflow-skinny" else package
    try:
        metadata.metadata(package)
    except metadata.PackageNotFoundError:
        return False
    return find_spec(module) is not None
