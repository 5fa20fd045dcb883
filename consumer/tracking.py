"""What a run tells TensorBoard and other experiment trackers, through Accelerate. Only rank 0 does.

A tracker that keeps files on this machine, and can be told where, keeps them in `RUN/tracking`.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from numpy.typing import NDArray

from penstock.consumer.run_folder import RunFolder
from penstock.consumer.tracking_config import TrackingConfig
from penstock.protocol.errors import RunError
from penstock.telemetry.sample_grid import draw_grid

_log = logging.getLogger(__name__)

GROUPS_TAG = "stream/groups"

_Image = NDArray[np.uint8]

_IMAGE_CALLS: Mapping[str, Callable[[Any, _Image, int], None]] = {
    "tensorboard": lambda log, image, step: log({GROUPS_TAG: image[None]}, step, dataformats="NHWC"),
    "aim": lambda log, image, step: log({GROUPS_TAG: image}, step),
    "clearml": lambda log, image, step: log({GROUPS_TAG: image}, step),
}
"""How `log_images` of a tracker is called where it takes no list of images: each hands on what its library takes."""


def accelerator_arguments(config: TrackingConfig, run_dir: Path) -> dict[str, Any]:
    """What `Accelerator(...)` must be given for the trackers.

    Raises ConfigError where a tracker's package is not installed.
    """
    if not (trackers := config.chosen):
        return {}
    return {"log_with": list(trackers), "project_dir": str(run_dir / "tracking")}


class Tracking:
    """The trackers of a run; on other ranks than 0, and without trackers, every call does nothing.

    Args:
        accelerator: made with `accelerator_arguments`.
        config: which trackers.
        folder: of the run.
        settings: of the run, sections as mappings.
        first_step: optimizer steps done by earlier lives; what those told of later steps is taken back where the
            tracker can.

    Raises:
        RunError: a tracker that was named does not start. TensorBoard that nobody named is passed over with a warning.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        config: TrackingConfig,
        folder: RunFolder,
        settings: Mapping[str, Any],
        first_step: int = 0,
    ) -> None:
        self._accelerator = accelerator
        self._images_every_steps = 0 if config.is_auto else config.images_every_steps
        # Some trackers start on every process that asks them to.
        self._is_on = accelerator.is_main_process and bool(accelerator.log_with)
        if not self._is_on:
            return
        folder.tracking.mkdir(exist_ok=True)
        try:
            accelerator.init_trackers(config.project, flat(settings), start_arguments(folder, first_step))
        except Exception as error:  # each tracker has errors of its own: no login, no network, a broken store
            if config.is_auto:
                _log.warning("nothing is told to TensorBoard, which does not start: %s", error or type(error).__name__)
                self._is_on = False
                return
            names = ", ".join(config.trackers)
            raise RunError(f"tracking.trackers ({names}): did not start: {error or type(error).__name__}") from error

    @property
    def is_on(self) -> bool:
        """Whether anybody listens."""
        return self._is_on

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Tell figures, by names such as `train/loss`, of optimizer step `step`. Steps must not fall."""
        if self._is_on:
            self._accelerator.log({name: float(value) for name, value in values.items()}, step=step)

    def wants_groups(self, step: int) -> bool:
        """Whether `groups` is due after optimizer step `step`: some tracker takes images, and it is their turn."""
        every = self._images_every_steps
        return self._is_on and every > 0 and step % every == 0 and any(map(_takes_images, self._accelerator.trackers))

    def groups(self, groups: Sequence[tuple[str, NDArray[np.uint8]]], step: int) -> None:
        """Show prompts with their images, uint8 `[m, H, W, 3]`, as one picture, to the trackers that take images."""
        if not self._is_on or not groups:
            return
        grid = draw_grid(groups)
        for tracker in filter(_takes_images, self._accelerator.trackers):
            call = _IMAGE_CALLS.get(tracker.name)
            if call is None:
                tracker.log_images({GROUPS_TAG: [grid]}, step=step)
            else:
                call(tracker.log_images, grid, step)

    def close(self) -> None:
        """Let the trackers write what they hold, and end them; once is enough."""
        if not self._is_on:
            return
        self._is_on = False
        for tracker in self._accelerator.trackers:
            tracker.finish()
        # Else `Accelerator.end_training` would end them again.
        self._accelerator.trackers = []

    def __enter__(self) -> "Tracking":
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


def start_arguments(folder: RunFolder, first_step: int = 0) -> dict[str, dict[str, Any]]:
    """What each tracker starts with: where its files go, the run's name, and which run a later life goes on with."""
    place, name = str(folder.tracking), folder.path.resolve().name
    return {
        # The steps behind the checkpoint are done again, and told again.
        "tensorboard": {"purge_step": first_step + 1} if first_step else {},
        "wandb": {"dir": place, "name": name, "id": folder.run_id, "resume": "allow"},
        "trackio": {"name": f"{name}-{folder.run_id[:8]}", "resume": "allow"},
        "dvclive": {"dir": str(folder.tracking / "dvclive"), "resume": first_step > 0, "dvcyaml": None},
        "swanlab": {"logdir": place, "experiment_name": name},
        "mlflow": {"run_name": name},
    }


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str | None]:
    """Nested settings by dotted name, every value of a kind that all trackers take."""
    result: dict[str, bool | int | float | str | None] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{name}.")
        else:
            is_plain = value is None or isinstance(value, bool | int | float | str)
            result[prefix + name] = value if is_plain else str(value)
    return result


def _takes_images(tracker: Any) -> bool:
    return hasattr(tracker, "log_images")
