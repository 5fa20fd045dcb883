"""How the trained encoder does on each class and group of labelled images."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.consumer.evaluation.accuracy import Part


@dataclass(frozen=True, slots=True)
class PartAccuracy:
    """A class, or a group of one value of an attribute."""

    name: str
    accuracy: float
    num_images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstGroups:
    """kNN of the encoder on one set of labelled images that it was not trained on."""

    name: str
    """Of the set."""
    accuracy: float
    low: float
    high: float
    mean_per_class: float
    classes: tuple[PartAccuracy, ...]
    """Worst first."""
    groups: dict[str, tuple[PartAccuracy, ...]]
    """By attribute, worst first; empty where the set knows none."""

    @property
    def gap(self) -> float:
        """By how much the worst class is below the whole."""
        return self.accuracy - self.classes[0].accuracy


def evaluate_groups(run: Path, data: str, device: str) -> list[WorstGroups]:
    """Evaluate a run's encoder by nearest neighbours.

    Args:
        run: its folder.
        data: `toyworld`, or a set of labelled images as `penstock evaluate --data` takes it.
        device: as `penstock evaluate` takes it.

    Raises PenstockError where the encoder or the set cannot be used.
    """
    from penstock.consumer.evaluation.config import EvaluateConfig
    from penstock.consumer.evaluation.evaluate import evaluate

    report = evaluate(EvaluateConfig(encoder=str(run), data=data, measures=("knn",), device=device))
    return [
        WorstGroups(
            name=task.name,
            accuracy=task.knn.accuracy,
            low=task.knn.interval.low,
            high=task.knn.interval.high,
            mean_per_class=task.knn.mean_per_class,
            classes=_worst_first(task.knn.classes),
            groups={name: _worst_first(parts) for name, parts in task.knn.groups.items()},
        )
        for task in report.tasks
        if task.knn is not None
    ]


def _worst_first(parts: "tuple[Part, ...]") -> tuple[PartAccuracy, ...]:
    ordered = sorted(parts, key=lambda part: part.accuracy)
    return tuple(PartAccuracy(part.name, part.accuracy, part.num) for part in ordered)
