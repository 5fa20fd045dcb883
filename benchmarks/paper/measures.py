"""What is measured of a training's encoder: kNN, as its own summary has it."""

from collections.abc import Mapping
from dataclasses import dataclass

from harness import BenchmarkError

from paper.runs import Training
from penstock.telemetry.summary import Summary

MEASURES = ("knn",)


@dataclass(frozen=True, slots=True)
class Figures:
    """Accuracies on rendered test scans by measure, 0 to 1."""

    after: Mapping[str, float]
    """Of the trained encoder."""
    before: Mapping[str, float]
    """Of the same encoder at random."""
    pixels: Mapping[str, float]
    """Of mean-subtracted pixels in its place."""


def figures_of(training: Training) -> Figures:
    """The figures of a training that is done. Raises BenchmarkError where its images were not those of the budget."""
    summary = Summary.read(training.run_dir / "summary.json")
    knn, made = summary.knn, summary.images_generated
    if made != training.budget.num_generated:
        raise BenchmarkError(f"{training.run_dir}: {training.budget.num_generated} images were to be made, got {made}")
    if knn.after is None or knn.before is None or knn.pixels is None:
        raise BenchmarkError(f"{training.run_dir}: the run has no kNN")
    return Figures({"knn": knn.after}, {"knn": knn.before}, {"knn": knn.pixels})
