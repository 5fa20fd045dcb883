"""Per-class accuracy against scikit-learn's recall, and the worst of what is graded."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, recall_score

from penstock.consumer.evaluation.accuracy import Part, grade

CLASSES = ("zero", "one", "two", "three")


def test_every_class_is_graded_as_by_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(4, 300, p=[0.5, 0.3, 0.15, 0.05])
    predicted = np.where(rng.random(300) < 0.6, labels, rng.integers(4, size=300))
    graded = grade(predicted, labels, np.arange(300), CLASSES, {}, confidence=0.95, seed=0)
    recalls = recall_score(labels, predicted, average=None)
    assert [part.accuracy for part in graded.classes] == pytest.approx(recalls.tolist())
    assert [part.name for part in graded.classes] == list(CLASSES)
    assert sum(part.num for part in graded.classes) == 300
    assert graded.mean_per_class == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert graded.worst_class.name == CLASSES[int(recalls.argmin())]
    assert graded.accuracy == pytest.approx((labels == predicted).mean())


def test_groups_are_graded_by_attribute_and_absent_ones_are_left_out() -> None:
    labels = np.array([0, 0, 1, 1, 1])
    predicted = np.array([0, 1, 1, 1, 0])
    inks = np.array([2, 2, 0, 0, 0]), ("black", "blue", "red")
    graded = grade(predicted, labels, np.arange(5), CLASSES, {"ink": inks}, confidence=0.95, seed=0)
    assert graded.groups["ink"] == (Part("black", pytest.approx(2 / 3), 3), Part("red", 0.5, 2))
    assert graded.worst_groups == {"ink": Part("red", 0.5, 2)}
    assert [part.name for part in graded.classes] == ["zero", "one"]
