"""A slowly moving average of a module's weights: what SynCLR's student learns from, and what may be exported."""

import copy
import math

import torch
from torch import Tensor, nn


class Average(nn.Module):
    """Exponential moving average of a module, without gradient; in evaluation mode, unless it is a projector's.

    After a step each weight becomes decay * itself + (1 - decay) * the module's. The decay goes from `decay` to
    `decay_end` by half a cosine over the run, as in MoCo v3 (arXiv 2104.02057). Buffers are copied.

    Args:
        module: begins as its copy.
        decay: share that stays in a step, at first.
        decay_end: the same at the end of the run; None keeps `decay`.
        batch_statistics: whether its BatchNorm takes the statistics of its own batch in training, as the teacher's
            projector does in MoCo v3. With running ones, which lag behind, all its rows look much alike at first, and
            a small network idles at the loss of a constant output.
    """

    def __init__(
        self, module: nn.Module, decay: float, decay_end: float | None = None, *, batch_statistics: bool = False
    ) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).requires_grad_(False)
        self._batch_statistics = batch_statistics
        self.module.train(batch_statistics)
        self._decay = decay
        self._decay_end = decay if decay_end is None else decay_end

    def train(self, mode: bool = True) -> "Average":
        """Stays in evaluation mode, but for a projector's."""
        return super().train(mode and self._batch_statistics)

    def decay_at(self, progress: float) -> float:
        """The share that stays, when the share `progress` of the run is done."""
        return self._decay_end - (self._decay_end - self._decay) * (math.cos(math.pi * progress) + 1) / 2

    @torch.no_grad()
    def follow(self, module: nn.Module, progress: float) -> None:
        """Move towards `module` after a step."""
        mine: list[Tensor] = [*self.module.parameters()]
        theirs: list[Tensor] = [*module.parameters()]
        torch._foreach_lerp_(mine, theirs, 1 - self.decay_at(progress))
        for buffer, its in zip(self.module.buffers(), module.buffers(), strict=True):
            buffer.copy_(its)
