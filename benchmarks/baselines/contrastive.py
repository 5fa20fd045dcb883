"""StableRep's loss in three ways, and the program that measures one of them in a process of its own.

`penstock` is `multipos_loss`, `public` the arithmetic of StableRep's own code (google-research/syn-rep-learn,
`models/losses.py`), `plain` what one writes who knows autograd and logsumexp. All take float32 features `[N, D]` and
int64 labels `[N]`.
"""

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import Tensor

from baselines.losses import TEMPERATURE, Public, plain
from penstock.kernels.multipos_loss import multipos_loss


def penstock(features: Tensor, labels: Tensor) -> Tensor:
    """Ours."""
    return multipos_loss(features, labels, temperature=TEMPERATURE)


def measure(side: str, num_rows: int, dim: int, repeats: int) -> tuple[dict[str, float], Tensor]:
    """Median seconds of forward and backward, the most memory that they held beside the features, loss and gradient.

    The first of `repeats` + 1 runs warms up, and is the one whose memory is measured.
    """
    sides: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"penstock": penstock, "public": Public(), "plain": plain}
    _run(sides[side], *_batch(64, dim))  # what the libraries take once for themselves is no memory of the loss
    features, labels = _batch(num_rows, dim)
    before = psutil.Process().memory_info().rss
    loss, gradient = _run(sides[side], features, labels)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        _run(sides[side], features, labels)
        seconds.append(time.perf_counter() - started)
    return {"seconds": statistics.median(seconds), "peak_bytes": peak - before, "loss": loss.item()}, gradient


def _run(loss_of: Callable[[Tensor, Tensor], Tensor], features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    loss = loss_of(features, labels)
    return loss.detach(), torch.autograd.grad(loss, features)[0]


def _batch(num_rows: int, dim: int) -> tuple[Tensor, Tensor]:
    """Groups of four rows that resemble each other, in no order."""
    generator = torch.Generator().manual_seed(num_rows)
    labels = (torch.arange(num_rows) // 4)[torch.randperm(num_rows, generator=generator)]
    prompts = torch.randn(num_rows // 4, dim, generator=generator)
    features = torch.randn(num_rows, dim, generator=generator).add_(prompts[labels])
    return features.requires_grad_(), labels * 2**40


if __name__ == "__main__":
    plan = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    figures, gradient = measure(plan["side"], plan["num_rows"], plan["dim"], plan["repeats"])
    np.save(plan["gradient"], gradient.numpy())
    Path(plan["figures"]).write_text(json.dumps(figures))
