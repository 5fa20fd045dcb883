"""What a run tells its trackers, read back: TensorBoard's files by TensorBoard itself, and by a tracker of our own."""

import dataclasses
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from penstock.consumer import run_folder, tracking_config
from penstock.consumer.config import TrainConfig
from penstock.consumer.run_folder import RunFolder
from penstock.consumer.tracking import GROUPS_TAG, Tracking, accelerator_arguments, flat, start_arguments
from penstock.consumer.tracking_config import TrackingConfig
from penstock.protocol.errors import ConfigError, RunError
from penstock.telemetry.sample_grid import draw_grid

TENSORBOARD = TrackingConfig(trackers=("tensorboard",), images_every_steps=20)
GROUPS = [("a red fox", np.random.default_rng(0).integers(0, 255, (3, 16, 16, 3), dtype=np.uint8))]


class Recorder(GeneralTracker):
    """A tracker that remembers its calls."""

    name = "recorder"
    requires_logging_directory = False

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []

    @property
    def tracker(self) -> "Recorder":
        return self

    def start(self) -> None:
        self.calls.append(("start",))

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.calls.append(("settings", values))

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        self.calls.append(("log", values, step))

    def finish(self) -> None:
        self.calls.append(("finish",))


class Viewer(Recorder):
    """One that takes images too, as a list."""

    def log_images(self, values: dict[str, Any], step: int) -> None:
        self.calls.append(("images", values, step))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return run_folder.prepare(tmp_path / "run", overwrite=False, resume=False)


def _events(folder: RunFolder) -> EventAccumulator:
    events = EventAccumulator(str(folder.tracking / "penstock"))
    events.Reload()
    return events


def _scalars(folder: RunFolder, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in _events(folder).Scalars(tag)]


def _tensorboard(folder: RunFolder) -> Accelerator:
    return Accelerator(cpu=True, **accelerator_arguments(TENSORBOARD, folder.path))


def test_tensorboard_reads_the_figures_back(folder: RunFolder) -> None:
    with Tracking(_tensorboard(folder), TENSORBOARD, folder, {"seed": 3}) as tracking:
        tracking.scalars({"train/loss": 2.5, "train/lr": 0.25}, 10)
        tracking.scalars({"train/loss": 1.5}, 20)
    assert _scalars(folder, "train/loss") == [(10, 2.5), (20, 1.5)]
    assert _scalars(folder, "train/lr") == [(10, 0.25)]


def test_tensorboard_reads_the_images_back_as_they_are_drawn(folder: RunFolder) -> None:
    with Tracking(_tensorboard(folder), TENSORBOARD, folder, {}) as tracking:
        tracking.groups(GROUPS, 40)
    (event,) = _events(folder).Images(GROUPS_TAG)
    pixels = np.rint(imread(io.BytesIO(event.encoded_image_string))[..., :3] * 255)
    np.testing.assert_array_equal(pixels, draw_grid(GROUPS))
    assert event.step == 40


def test_the_settings_lie_beside_the_figures(folder: RunFolder) -> None:
    settings = dataclasses.asdict(TrainConfig(run_dir=folder.path))
    Tracking(_tensorboard(folder), TENSORBOARD, folder, settings).close()
    (written,) = folder.tracking.rglob("hparams.yml")
    assert "generator.guidance_scale: 2.0" in written.read_text()


def test_a_later_life_takes_back_what_the_earlier_told_of_the_steps_that_are_done_again(folder: RunFolder) -> None:
    with Tracking(_tensorboard(folder), TENSORBOARD, folder, {}) as tracking:
        for step in (10, 20, 30):
            tracking.scalars({"train/loss": 1.0}, step)
    with Tracking(_tensorboard(folder), TENSORBOARD, folder, {}, first_step=20) as tracking:
        tracking.scalars({"train/loss": 2.0}, 30)
    assert _scalars(folder, "train/loss") == [(10, 1.0), (20, 1.0), (30, 2.0)]


def test_a_tracker_hears_all_in_order_and_its_end_once(folder: RunFolder) -> None:
    recorder = Recorder()
    accelerator = Accelerator(cpu=True, log_with=recorder)
    tracking = Tracking(accelerator, TrackingConfig(), folder, {"model": {"width": 8}})
    tracking.scalars({"eval/knn": np.float64(0.5)}, 7)
    tracking.groups(GROUPS, 7)
    tracking.close()
    tracking.close()
    tracking.scalars({"eval/knn": 0.75}, 8)
    accelerator.end_training()
    expected = [("start",), ("settings", {"model.width": 8}), ("log", {"eval/knn": 0.5}, 7), ("finish",)]
    assert recorder.calls == expected
    assert type(recorder.calls[2][1]["eval/knn"]) is float


def test_images_go_to_those_trackers_that_take_them(folder: RunFolder) -> None:
    viewer, recorder = Viewer(), Recorder()
    config = TrackingConfig(trackers=("wandb",), images_every_steps=20)
    tracking = Tracking(Accelerator(cpu=True, log_with=[recorder, viewer]), config, folder, {})
    assert [step for step in range(1, 50) if tracking.wants_groups(step)] == [20, 40]
    tracking.groups(GROUPS, 40)
    ((_, values, step),) = [call for call in viewer.calls if call[0] == "images"]
    assert step == 40
    (image,) = values[GROUPS_TAG]
    np.testing.assert_array_equal(image, draw_grid(GROUPS))
    assert [call[0] for call in recorder.calls] == ["start", "settings"]


@pytest.mark.parametrize(("tracker", "every"), [(Recorder, 20), (Viewer, 0)])
def test_no_grid_is_wanted_where_nobody_looks(folder: RunFolder, tracker: type[Recorder], every: int) -> None:
    accelerator = Accelerator(cpu=True, log_with=tracker())
    config = TrackingConfig(trackers=("wandb",), images_every_steps=every)
    tracking = Tracking(accelerator, config, folder, {})
    assert not any(tracking.wants_groups(step) for step in range(100))


def test_nobody_gets_an_image_that_was_not_asked_for(folder: RunFolder) -> None:
    default = TrackingConfig(images_every_steps=20)
    accelerator = Accelerator(cpu=True, **accelerator_arguments(default, folder.path))
    with Tracking(accelerator, default, folder, {}) as tracking:
        tracking.scalars({"train/loss": 2.5}, 20)
        assert not any(tracking.wants_groups(step) for step in range(100))
    assert _scalars(folder, "train/loss") == [(20, 2.5)]
    assert [path for path in folder.path.rglob("*") if path.suffix in {".png", ".jpg"}] == []


def test_tensorboard_that_nobody_named_and_that_is_broken_is_one_line(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    accelerator = Accelerator(cpu=True, **accelerator_arguments(TrackingConfig(), folder.path))

    def broken(*_: object) -> None:
        raise ImportError("no module named six")

    monkeypatch.setattr(accelerator, "init_trackers", broken)
    with Tracking(accelerator, TrackingConfig(), folder, {}) as tracking:
        tracking.scalars({"train/loss": 2.5}, 20)
        assert not tracking.is_on
    assert caplog.messages == ["nothing is told to TensorBoard, which does not start: no module named six"]


def test_other_ranks_than_the_first_tell_nothing(folder: RunFolder) -> None:
    recorder = Viewer()
    rank_1: Any = SimpleNamespace(is_main_process=False, log_with=[recorder], trackers=[recorder])
    with Tracking(rank_1, TrackingConfig(), folder, {}) as tracking:
        tracking.scalars({"train/loss": 1.0}, 1)
        tracking.groups(GROUPS, 500)
        assert not tracking.wants_groups(500)
    assert recorder.calls == []
    assert not folder.tracking.exists()


def test_without_trackers_nothing_is_written(folder: RunFolder) -> None:
    nobody = TrackingConfig(trackers=())
    accelerator = Accelerator(cpu=True, **accelerator_arguments(nobody, folder.path))
    with Tracking(accelerator, nobody, folder, {}) as tracking:
        tracking.scalars({"train/loss": 1.0}, 1)
        tracking.groups(GROUPS, 500)
        assert not tracking.wants_groups(500)
    assert not folder.tracking.exists()


def test_a_missing_package_is_said_before_accelerate_passes_over_it(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking_config, "_PACKAGES", {"wandb": ("no_such_package",)})
    with pytest.raises(ConfigError, match="run: pip install no_such_package"):
        accelerator_arguments(TrackingConfig(trackers=("wandb",)), folder.path)


def test_a_tracker_that_does_not_start_is_one_line(folder: RunFolder) -> None:
    class Broken(Recorder):
        def start(self) -> None:
            raise OSError("no route to host")

    config = TrackingConfig(trackers=("wandb",))
    with pytest.raises(RunError, match=r"tracking\.trackers \(wandb\): did not start: no route to host"):
        Tracking(Accelerator(cpu=True, log_with=Broken()), config, folder, {})


def test_every_kind_of_setting_reaches_every_tracker() -> None:
    settings = {"a": 1, "b": {"c": 0.5, "d": {"e": None}}, "betas": (0.9, 0.98), "path": Path("x/y"), "on": True}
    expected = {"a": 1, "b.c": 0.5, "b.d.e": None, "betas": "(0.9, 0.98)", "path": "x/y", "on": True}
    assert flat(settings) == expected


def test_files_of_trackers_that_can_be_told_lie_in_the_run_folder(folder: RunFolder) -> None:
    arguments = start_arguments(folder)
    assert arguments["wandb"]["dir"] == arguments["swanlab"]["logdir"] == str(folder.path / "tracking")
    assert arguments["dvclive"]["dir"] == str(folder.path / "tracking" / "dvclive")
    assert arguments["wandb"]["id"] == json.loads((folder.path / "run.json").read_text())["run_id"]
