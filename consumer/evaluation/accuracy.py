"""Accuracy with what a single number hides: its interval, every class, the worst class, the worst group."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.consumer.evaluation.intervals import Interval, accuracy_interval


@dataclass(frozen=True, slots=True)
class Part:
    """Accuracy on the images of one class or group. The worst of many small ones is low by chance alone: see `num`."""

    name: str
    accuracy: float
    num: int
    """Images in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Accuracy on test images, 0 .. 1."""

    accuracy: float
    interval: Interval
    mean_per_class: float
    """Every class counts alike, however many images it has."""
    classes: tuple[Part, ...]
    """Classes that have test images, in the set's order."""
    groups: dict[str, tuple[Part, ...]]
    """By attribute the groups of one value each."""

    @property
    def worst_class(self) -> Part:
        """The class of lowest accuracy."""
        return _worst(self.classes)

    @property
    def worst_groups(self) -> dict[str, Part]:
        """By attribute the group of lowest accuracy."""
        return {name: _worst(parts) for name, parts in self.groups.items()}


def grade(
    predicted: NDArray[np.int64],
    labels: NDArray[np.int64],
    ids: NDArray[np.int64],
    classes: tuple[str, ...],
    groups: Mapping[str, tuple[NDArray[np.int64], tuple[str, ...]]],
    *,
    confidence: float,
    seed: int,
) -> Accuracy:
    """Grade predictions.

    Args:
        predicted, labels: int64 [N], places in `classes`.
        ids: int64 [N]; images of one id are right or wrong together, as far as the interval knows.
        groups: by attribute int64 [N], places in the values' names.
        confidence, seed: of the interval.
    """
    right = predicted == labels
    by_class = _parts(right, labels, classes)
    return Accuracy(
        accuracy=float(right.mean()),
        interval=accuracy_interval(right, ids, confidence=confidence, seed=seed),
        mean_per_class=float(np.mean([part.accuracy for part in by_class])),
        classes=by_class,
        groups={name: _parts(right, values, names) for name, (values, names) in groups.items()},
    )


def _parts(right: NDArray[np.bool_], values: NDArray[np.int64], names: tuple[str, ...]) -> tuple[Part, ...]:
    return tuple(
        Part(names[value], float(right[values == value].mean()), int((values == value).sum()))
        for value in np.unique(values).tolist()
    )


def _worst(parts: tuple[Part, ...]) -> Part:
    return min(parts, key=lambda part: part.accuracy)
