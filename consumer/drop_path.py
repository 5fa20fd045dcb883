"""Stochastic depth (Huang et al. 2016, arXiv 1603.09382): in training, rows skip residual branches at random.

Branches of later blocks are skipped more often, by timm's and SynCLR's linear rule; the first block's never. What stays
is made larger, so that its mean is that of evaluation, which skips nothing.
"""

from torch import Tensor, nn
from transformers import PreTrainedModel


class DropPath(nn.Module):
    """Zeroes whole rows with probability `rate`, and divides the others by what is left of 1. Nothing in evaluation."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """`[N, ...]` to the same."""
        if not self.training or self.rate == 0:
            return branch
        kept = 1 - self.rate
        mask = branch.new_empty(len(branch), *[1] * (branch.ndim - 1)).bernoulli_(kept)
        return branch * (mask / kept)


def add_drop_path(encoder: PreTrainedModel, rate: float) -> None:
    """Let the last block of a ViT skip its branches at `rate`, the others less in equal steps down to 0 for the first.

    It takes the places of the blocks' dropout layers, which stand in both branches and are idle in a ViT as
    `build_encoder` makes it; names of weights and the configuration stay as they are.

    Raises:
        ValueError: a rate outside [0, 1).
    """
    if not 0 <= rate < 1:
        raise ValueError(f"drop_path must be in [0, 1), got {rate}")
    blocks = next(module for module in encoder.modules() if isinstance(module, nn.ModuleList))
    for index, block in enumerate(blocks):
        for parent in list(block.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Dropout):
                    setattr(parent, name, DropPath(rate * index / max(1, len(blocks) - 1)))
