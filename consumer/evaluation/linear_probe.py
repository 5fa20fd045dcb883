"""The linear probe: a linear classifier on frozen features, as StableRep measures its encoders.

SGD with momentum .9, no weight decay, 90 epochs, cosine decay to zero; base learning rates for 256 images a step;
weights start at N(0, 0.01), biases at 0 (google-research/syn-rep-learn, StableRep/main_linear.py). All learning rates,
each with and without a BatchNorm that has no affine part before it, are trained side by side as one parameter
`[norms, D, lrs, C]`, which makes one matrix product of them. What differs from the reference:
- It augments the training images (crop and flip) anew in every epoch; here the features are computed once. That is
  many times cheaper, and gives a little less where the probe overfits.
- It reports the best of its grid on the set that it reports. Here the setting is chosen on validation images, and the
  one chosen is tried on the test images, once.
- A small set gives few steps, so the grid goes on beyond the reference's .5.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from penstock.consumer.evaluation.config import LinearProbeConfig

_MOMENTUM = 0.9
_INITIAL_STD = 0.01
_NORM_EPSILON = 1e-6
_NORM_MOMENTUM = 0.1
_NEGLIGIBLE = 1e-20
"""Smaller errors count as none: classifiers that are sure of everything make them, and a CPU multiplies numbers below
1e-38, which they lead to, many times slower than others."""
_ROWS_AT_A_TIME = 512
_NORMS = (False, True)
"""First the features as they are, then those behind BatchNorm: the first axis of the weights."""

# Shape suffixes: M norms, L learning rates, B batch, D features, C classes.


@dataclass(frozen=True, slots=True)
class Choice:
    """The setting that did best on the validation images."""

    learning_rate: float
    batch_norm: bool
    val_accuracy: float
    at_edge: bool
    """Whether the learning rate is the first or last of the grid, so that one beyond it might have been better."""


class LinearProbe:
    """Linear classifiers over a grid of learning rates, with and without BatchNorm.

    Args:
        features: `[N, D]`; `labels` int64 `[N]` in 0 .. num_classes - 1.
        seed: decides the initial weights and the order of the images, the same for all of the grid.
    """

    def __init__(
        self, features: Tensor, labels: Tensor, num_classes: int, config: LinearProbeConfig, *, seed: int = 0
    ) -> None:
        self._config = config
        self._random = torch.Generator().manual_seed(seed)
        device, dim, num_rates = features.device, features.shape[1], len(config.learning_rates)
        start_DC = _INITIAL_STD * torch.randn(dim, num_classes, generator=self._random).to(device)
        self._weight_MDLC = start_DC[:, None].expand(len(_NORMS), dim, num_rates, num_classes).clone()
        self._bias_MLC = torch.zeros(len(_NORMS), num_rates, num_classes, device=device)
        self._mean_D = torch.zeros(dim, device=device)
        self._variance_D = torch.ones(dim, device=device)
        self._fit(features.float(), labels)

    @torch.no_grad()
    def choose(self, features: Tensor, labels: Tensor) -> Choice:
        """The setting of highest accuracy on validation features `[N, D]`; of equals, the one of lowest loss."""
        right_ML = torch.zeros(self._bias_MLC.shape[:2], device=features.device)
        loss_ML = torch.zeros_like(right_ML)
        for rows in torch.arange(len(features), device=features.device).split(_ROWS_AT_A_TIME):
            logits_MBLC = self._logits(self._inputs(features[rows].float()))
            truth_MBL = labels[rows, None].expand(logits_MBLC.shape[:3])
            right_ML += (logits_MBLC.argmax(dim=3) == truth_MBL).sum(dim=1)
            losses = F.cross_entropy(logits_MBLC.flatten(0, 2), truth_MBL.flatten(), reduction="none")
            loss_ML += losses.view_as(truth_MBL).sum(dim=1)
        # A classifier that diverged may have no number for a loss.
        loss_ML = loss_ML.nan_to_num(nan=math.inf)
        rates = self._config.learning_rates
        ranking = [
            (-right_ML[norm, rate].item(), loss_ML[norm, rate].item(), norm, rate)
            for norm in range(len(_NORMS))
            for rate in range(len(rates))
        ]
        _, _, norm, rate = min(ranking)
        return Choice(
            learning_rate=rates[rate],
            batch_norm=_NORMS[norm],
            val_accuracy=right_ML[norm, rate].item() / len(features),
            at_edge=len(rates) > 1 and rate in (0, len(rates) - 1),
        )

    @torch.no_grad()
    def predict(self, features: Tensor, choice: Choice) -> Tensor:
        """The class of each row of `[N, D]` by the chosen classifier, int64 `[N]`."""
        norm, rate = _NORMS.index(choice.batch_norm), self._config.learning_rates.index(choice.learning_rate)
        weight_DC, bias_C = self._weight_MDLC[norm, :, rate], self._bias_MLC[norm, rate]
        return (self._inputs(features.float())[norm] @ weight_DC + bias_C).argmax(dim=1)

    @torch.no_grad()
    def _fit(self, features: Tensor, labels: Tensor) -> None:
        """Train all classifiers. The last images of an epoch that fill no batch are left out, as in the reference."""
        batch = min(self._config.batch_size, len(features))
        steps = len(features) // batch
        total = self._config.epochs * steps
        rate_L1 = torch.tensor(self._config.learning_rates, device=features.device)[:, None] * batch / 256
        velocity_w, velocity_b = torch.zeros_like(self._weight_MDLC), torch.zeros_like(self._bias_MLC)
        for epoch in range(self._config.epochs):
            order = torch.randperm(len(features), generator=self._random).to(features.device)
            for step in range(steps):
                rows = order[step * batch : (step + 1) * batch]
                inputs_MBD = self._inputs(features[rows], training=True)
                # The gradient of the mean cross-entropy by the logits.
                error_MBLC = self._logits(inputs_MBD).softmax(dim=3)
                error_MBLC[:, torch.arange(batch, device=rows.device), :, labels[rows]] -= 1
                error_MBLC /= batch
                error_MBLC.masked_fill_(error_MBLC.abs() < _NEGLIGIBLE, 0)
                gradient_w = (inputs_MBD.mT @ error_MBLC.flatten(2)).view_as(self._weight_MDLC)
                velocity_w.mul_(_MOMENTUM).add_(gradient_w)
                velocity_b.mul_(_MOMENTUM).add_(error_MBLC.sum(dim=1))
                decay = (1 + math.cos(math.pi * (epoch * steps + step) / total)) / 2
                self._weight_MDLC.addcmul_(velocity_w, -decay * rate_L1)
                self._bias_MLC.addcmul_(velocity_b, -decay * rate_L1)

    def _inputs(self, features_BD: Tensor, *, training: bool = False) -> Tensor:
        """Both inputs of the classifiers, `[M, B, D]`; in training the batch's own statistics count, and are noted."""
        normed_BD = F.batch_norm(
            features_BD,
            self._mean_D,
            self._variance_D,
            training=training,
            momentum=_NORM_MOMENTUM,
            eps=_NORM_EPSILON,
        )
        return torch.stack([features_BD, normed_BD])

    def _logits(self, inputs_MBD: Tensor) -> Tensor:
        """`[M, B, L, C]`."""
        products = inputs_MBD @ self._weight_MDLC.flatten(2)
        return products.view(*products.shape[:2], *self._bias_MLC.shape[1:]) + self._bias_MLC[:, None]
