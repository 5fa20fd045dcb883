"""What is measured of a training's encoder, and of the floors: kNN and linear probe by `penstock evaluate`.

Nothing is chosen by test scans: kNN chooses nothing, the probe's setting is chosen on validation scans. Reports lie
beside the encoders, so that nothing is measured twice.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import harness
from harness import BenchmarkError

from paper.runs import Training

Measured = Literal["knn", "linear_probe"]
MEASURES: Sequence[Measured] = ("knn", "linear_probe")
TASKS = {"toyworld, rendered": "", "toyworld, raw scans": "_raw_scans"}
"""By the name of a task, what its figures' names end in."""
_REPORT = "report.json"

Figures = Mapping[str, float]
"""Accuracies on test scans, 0 to 1: `knn` and `linear_probe`, and the same on scans that no renderer has touched."""


def of_training(training: Training) -> Figures:
    """The figures of a training that is done. Raises BenchmarkError where its images were not those of the budget."""
    made = training.summary["images_generated"]
    least, most = training.budget.num_images, training.budget.num_generated
    if not least <= made <= most:  # a very short run ends before its window is full
        raise BenchmarkError(f"{training.run_dir}: {least} to {most} images were to be made, got {made}")
    return _measure(str(training.run_dir / "encoder"), training.run_dir / _REPORT)


def of_random_init(training: Training) -> Figures:
    """The same for the encoder that the training began with."""
    folder = training.run_dir.parent / "random_init"
    if not (folder / "config.json").exists():
        _save_beginning(training, folder)
    return _measure(str(folder), folder / _REPORT)


def of_pixels(work: Path) -> Figures:
    """The same for mean-subtracted pixels in an encoder's place."""
    return _measure("pixels", work / f"pixels_{_REPORT}")


def _save_beginning(training: Training, folder: Path) -> None:
    from accelerate.utils import set_seed

    from penstock.config.load import load_config
    from penstock.consumer.building import build_vit
    from penstock.consumer.config import TrainConfig
    from penstock.consumer.export import save_encoder

    presets = harness.ROOT / "consumer" / "presets"
    config = load_config(TrainConfig, training.flags, preset_dir=presets, prog="paper_tables", description="")
    set_seed(config.seed)
    save_encoder(build_vit(config), folder, config.augment)


def _measure(encoder: str, report: Path) -> Figures:
    if not report.exists():
        from penstock.consumer.evaluation.config import EvaluateConfig
        from penstock.consumer.evaluation.evaluate import NO_CACHE, evaluate

        config = EvaluateConfig(encoder=encoder, measures=tuple(MEASURES), device="cpu", cache=NO_CACHE)
        evaluate(config).write(report)
    tasks = json.loads(report.read_text())["tasks"]
    return {measure + TASKS[task["name"]]: task[measure]["accuracy"] for measure in MEASURES for task in tasks}
