"""The online evaluation: looks at the encoder during training, on real handwriting that nothing has been trained on.

No prompt, no generator and no trainer has seen it. During training the validation scans vote for each other, renders of
one scan never for a sibling, so that whoever stops or selects by the curve has not looked at the test scans. Those are
read before and after training, and for the pixel floor. The same features give RankMe and the alarm for collapse.
"""

import logging
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from penstock.consumer.config import EvaluationConfig
from penstock.consumer.evaluation.collapse import CollapseAlarm
from penstock.consumer.evaluation.features import encode, pixel_features
from penstock.consumer.evaluation.knn import knn_accuracy
from penstock.consumer.evaluation.rankme import Spread, spread
from penstock.kernels.augment_recipe import AugmentRecipe
from penstock.protocol.errors import RunError
from penstock.toyworld.evaluation import LabelledImages, evaluation_sets

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Labelled:
    """images: uint8 [N, H, W, 3]; labels, scan_ids: int64 [N]."""

    images: Tensor
    labels: Tensor
    scan_ids: Tensor

    @classmethod
    def of(cls, arrays: LabelledImages) -> "Labelled":
        """The arrays as tensors."""
        return cls(*(torch.tensor(array) for array in (arrays.images, arrays.labels, arrays.scan_ids)))


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at an encoder in training sees, on the validation scans."""

    knn: float
    """Accuracy, each scan left out for its own renders; 0 .. 1."""
    spread: Spread
    """RankMe and mean cosine of the features."""


class ToyWorldEvaluation:
    """An encoder on held-out handwriting.

    Args:
        config: k and temperature.
        recipe: how images are resized and normalised for the encoder.
    """

    def __init__(self, config: EvaluationConfig, recipe: AugmentRecipe) -> None:
        sets = evaluation_sets()
        self._config = config
        self._recipe = recipe
        self._bank = Labelled.of(sets.bank)
        self._queries = Labelled.of(sets.queries)
        self._raw_bank = Labelled.of(sets.raw_bank)
        self._raw_queries = Labelled.of(sets.raw_queries)
        self._alarm = CollapseAlarm()

    def look(self, step: int, encoder: PreTrainedModel) -> Look:
        """Look at the encoder after `step` steps; logs a warning once where its features collapse, and its end.

        Raises:
            RunError: features that are no numbers.
        """
        features = self._features(encoder, self._bank)
        if not bool(torch.isfinite(features).all()):
            raise RunError(f"the encoder's features are no finite numbers at step {step}; lower optimizer.base_lr")
        look = Look(knn=self._leave_one_out(features), spread=spread(features))
        if (line := self._alarm.saw(step, look.spread)) is not None:
            _log.warning(line)
        return look

    def validation(self, encoder: PreTrainedModel) -> float:
        """Accuracy among the validation scans, each left out for its own renders; 0 .. 1."""
        return self._leave_one_out(self._features(encoder, self._bank))

    def test(self, encoder: PreTrainedModel) -> float:
        """Accuracy of rendered test scans against rendered validation scans; 0 .. 1."""
        features = self._features(encoder, self._bank), self._features(encoder, self._queries)
        return self._vote(features[0], self._bank, features[1], self._queries)

    def raw_test(self, encoder: PreTrainedModel) -> float:
        """The same on the scans merely enlarged, which no renderer has touched; 0 .. 1."""
        features = self._features(encoder, self._raw_bank), self._features(encoder, self._raw_queries)
        return self._vote(features[0], self._raw_bank, features[1], self._raw_queries)

    def pixels(self) -> float:
        """Accuracy of mean-subtracted pixels in the encoder's place on the rendered test scans; 0 .. 1."""
        features = pixel_features(self._bank.images), pixel_features(self._queries.images)
        return self._vote(features[0], self._bank, features[1], self._queries)

    def _features(self, encoder: PreTrainedModel, data: Labelled) -> Tensor:
        return encode(encoder, data.images, self._recipe)

    def _leave_one_out(self, features: Tensor) -> float:
        ids = self._bank.scan_ids
        return self._vote(features, self._bank, features, self._bank, exclude=(ids, ids))

    def _vote(
        self,
        bank: Tensor,
        bank_data: Labelled,
        queries: Tensor,
        query_data: Labelled,
        exclude: tuple[Tensor, Tensor] | None = None,
    ) -> float:
        return knn_accuracy(
            bank,
            bank_data.labels,
            queries,
            query_data.labels,
            k=self._config.k,
            temperature=self._config.temperature,
            exclude=exclude,
        )
