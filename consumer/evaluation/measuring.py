"""One task, from features to figures. Every measure looks at the test images once, when nothing is left to choose."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from penstock.consumer.evaluation.accuracy import Accuracy, grade
from penstock.consumer.evaluation.config import EvaluateConfig
from penstock.consumer.evaluation.encoders import Encoder
from penstock.consumer.evaluation.features import SetEncoder
from penstock.consumer.evaluation.few_shot import FewShot, few_shot
from penstock.consumer.evaluation.knn import knn_predict
from penstock.consumer.evaluation.linear_probe import LinearProbe
from penstock.consumer.evaluation.rankme import spread
from penstock.consumer.evaluation.report import TaskReport
from penstock.consumer.evaluation.splits import Labelled, Task
from penstock.consumer.evaluation.zero_shot import class_embeddings, zero_shot_predict


@dataclass(frozen=True, slots=True)
class _Known:
    """features: float32 [N, D]. labels, ids, contents: int64 [N]; rows of one id show one original. On one device."""

    features: Tensor
    labels: Tensor
    ids: Tensor
    contents: Tensor

    def take(self, places: Tensor) -> "_Known":
        """The rows at the given places."""
        places = places.to(self.labels.device)
        return _Known(self.features[places], self.labels[places], self.ids[places], self.contents[places])


def measure(
    task: Task, encoder: Encoder, set_encoder: SetEncoder, device: torch.device, config: EvaluateConfig
) -> TaskReport:
    """All that the settings ask for of one task.

    Args:
        encoder: frozen.
        set_encoder: gives that encoder's features of sets.
        device: where features are compared and the probe is trained.

    Raises:
        PenstockError: images that cannot be read, or features that are no numbers.
    """

    def known(labelled: Labelled) -> _Known:
        encoded = set_encoder.encode(labelled.images, labelled.rows)
        ids = encoded.contents if labelled.ids is None else labelled.ids
        return _Known(*(part.to(device) for part in (encoded.features, labelled.labels, ids, encoded.contents)))

    bank, test = known(task.bank), known(task.test)
    fit = bank.take(task.fit)
    choosing = known(task.choosing) if isinstance(task.choosing, Labelled) else bank.take(task.choosing)
    grading = _Grading(task, test, config)
    report = TaskReport(
        name=task.name,
        num_bank=len(task.bank),
        num_fit=len(task.fit),
        num_choosing=len(task.choosing),
        num_test=len(task.test),
        num_originals=len(test.ids.unique()),
        original=task.original,
        num_known=int(torch.isin(test.contents, torch.cat([bank.contents, choosing.contents])).sum()),
        spread=spread(bank.features, seed=config.seed),
    )
    if "knn" in config.measures:
        report = replace(report, knn=_knn(bank, test, grading, config))
    if "linear_probe" in config.measures:
        probe = LinearProbe(fit.features, fit.labels, len(task.classes), config.linear_probe, seed=config.seed)
        choice = probe.choose(choosing.features, choosing.labels)
        report = replace(report, choice=choice, linear_probe=grading.grade(probe.predict(test.features, choice)))
    if "zero_shot" in config.measures:
        if encoder.text is None:
            report.skipped["zero-shot"] = "the encoder has no text tower"
        else:
            images = set_encoder.encode_for_text(task.test.images, task.test.rows, encoder.text).features
            with torch.no_grad():
                classes = class_embeddings(encoder.text.embed_texts, task.classes, task.templates)
            zero_shot = grading.grade(zero_shot_predict(images.to(device), classes))
            report = replace(report, zero_shot=zero_shot, templates=task.templates)
    if "few_shot" in config.measures:
        few = few_shot(
            test.features, test.labels, test.ids, config.few_shot, confidence=config.confidence, seed=config.seed
        )
        if isinstance(few, FewShot):
            report = replace(report, few_shot=few)
        else:
            report.skipped["few-shot"] = few
    return report


def _knn(bank: _Known, test: _Known, grading: "_Grading", config: EvaluateConfig) -> Accuracy:
    predicted = knn_predict(
        bank.features,
        bank.labels,
        test.features,
        k=config.knn.k,
        temperature=config.knn.temperature,
        exclude=(bank.ids, test.ids),
    )
    return grading.grade(predicted)


class _Grading:
    """What the predictions of all measures are held against."""

    def __init__(self, task: Task, test: _Known, config: EvaluateConfig) -> None:
        self._labels, self._ids = test.labels.numpy(force=True), test.ids.numpy(force=True)
        self._classes = task.classes
        self._groups = {name: (value.numpy(), names) for name, (value, names) in task.test.groups.items()}
        self._config = config

    def grade(self, predicted: Tensor) -> Accuracy:
        """Grade int64 `[N]` predictions for the test images."""
        return grade(
            predicted.numpy(force=True),
            self._labels,
            self._ids,
            self._classes,
            self._groups,
            confidence=self._config.confidence,
            seed=self._config.seed,
        )
