"""The linear probe: a linear classifier on frozen features, as StableRep measures its encoders.

SGD with momentum .9, no weight decay, 90 epochs, cosine decay to zero; base learning rates for 256 images a step; weights
start at N(0, 0.01), biases at 0 (google-research/syn-rep-learn, StableRep/main_linear.py). All learning rates, each with
and without a BatchNorm that has no affine part before it, are trained side by side as one parameter `[norms, lrs, D, C]`:
the features are read once for all of them. What differs from the reference:
- It augments the training images (crop and flip) anew in every epoch; here the features are computed once. That is many
  times cheaper, and gives a little less where the probe overfits.
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
        self, features: Tensor, labels: Tensor, num_classes: int, setting: LinearProbeConfig, *, seed: int = 0
    ) -> None:
        self._setting = setting
        self._random = torch.Generator().manual_seed(seed)
        device, dim = features.device, features.shape[1]
        grid = len(_NORMS), len(setting.learning_rates)
        start_DC = _INITIAL_STD * torch.randn(dim, num_classes, generator=self._random).to(device)
        self._weight_MLDC = start_DC.expand(*grid, dim, num_classes).clone()
        self._bias_MLC = torch.zeros(*grid, num_classes, device=device)
        self._mean_D = torch.zeros(dim, device=device)
        self._variance_D = torch.ones(dim, device=device)
        self._fit(features.float(), labels)

    @torch.no_grad()
    def choose(self, features: Tensor, labels: Tensor) -> Choice:
        """The setting of highest accuracy on validation features `[N, D]`; of equals, the one of lowest loss."""
        right_ML = torch.zeros(self._bias_MLC.shape[:2], device=features.device)
        loss_ML = torch.zeros_like(right_ML)
        for rows in torch.arange(len(features), device=features.device).split(_ROWS_AT_A_TIME):
            logits_MLBC = self._logits(self._inputs(features[rows].float()))
            truth_MLB = labels[rows].expand(logits_MLBC.shape[:3])
            right_ML += (logits_MLBC.argmax(dim=3) == truth_MLB).sum(dim=2)
            losses = F.cross_entropy(logits_MLBC.flatten(0, 2), truth_MLB.flatten(), reduction="none")
            loss_ML += losses.view_as(truth_MLB).sum(dim=2)
        # A classifier that diverged may have no number for a loss.
        loss_ML = loss_ML.nan_to_num(nan=math.inf)
        num_rates = len(self._setting.learning_rates)
        ranking = [
            (-right_ML[norm, rate].item(), loss_ML[norm, rate].item(), norm, rate)
            for norm in range(len(_NORMS))
            for rate in range(num_rates)
        ]
        _, _, norm, rate = min(ranking)
        return Choice(
            learning_rate=self._setting.learning_rates[rate],
            batch_norm=_NORMS[norm],
            val_accuracy=right_ML[norm, rate].item() / len(features),
            at_edge=num_rates > 1 and rate in (0, num_rates - 1),
        )

    @torch.no_grad()
    def predict(self, features: Tensor, choice: Choice) -> Tensor:
        """The class of each row of `[N, D]` by the chosen classifier, int64 `[N]`."""
        norm, rate = _NORMS.index(choice.batch_norm), self._setting.learning_rates.index(choice.learning_rate)
        weight_DC, bias_C = self._weight_MLDC[norm, rate], self._bias_MLC[norm, rate]
        return (self._inputs(features.float())[norm] @ weight_DC + bias_C).argmax(dim=1)

    @torch.no_grad()
    def _fit(self, features: Tensor, labels: Tensor) -> None:
        """Train all classifiers. The last images of an epoch that fill no batch are left out, as in the reference."""
        batch = min(self._setting.batch_size, len(features))
        steps = len(features) // batch
        total = self._setting.epochs * steps
        rate_L11 = torch.tensor(self._setting.learning_rates, device=features.device)[:, None, None] * batch / 256
        velocity_w, velocity_b = torch.zeros_like(self._weight_MLDC), torch.zeros_like(self._bias_MLC)
        for epoch in range(self._setting.epochs):
            order = torch.randperm(len(features), generator=self._random).to(features.device)
            for step in range(steps):
                rows = order[step * batch : (step + 1) * batch]
                inputs_MBD = self._inputs(features[rows], training=True)
                # The gradient of the mean cross-entropy by the logits.
                error_MLBC = self._logits(inputs_MBD).softmax(dim=3)
                error_MLBC[..., torch.arange(batch, device=rows.device), labels[rows]] -= 1
                error_MLBC /= batch
                velocity_w.mul_(_MOMENTUM).add_(torch.einsum("mbd,mlbc->mldc", inputs_MBD, error_MLBC))
                velocity_b.mul_(_MOMENTUM).add_(error_MLBC.sum(dim=2))
                decay = (1 + math.cos(math.pi * (epoch * steps + step) / total)) / 2
                self._weight_MLDC -= decay * rate_L11 * velocity_w
                self._bias_MLC -= decay * rate_L11[:, 0] * velocity_b

    def _inputs(self, features_BD: Tensor, *, training: bool = False) -> Tensor:
        """Both inputs of the classifiers, `[M, B, D]`; in training the batch's own statistics count, and are noted."""
        normed_BD = F.batch_norm(
            features_BD,
            self._mean_D,
            self._variance_D,
            training=training and len(features_BD) > 1,
            momentum=_NORM_MOMENTUM,
            eps=_NORM_EPSILON,
        )
        return torch.stack([features_BD, normed_BD])

    def _logits(self, inputs_MBD: Tensor) -> Tensor:
        return torch.einsum("mbd,mldc->mlbc", inputs_MBD, self._weight_MLDC) + self._bias_MLC[:, :, None]
