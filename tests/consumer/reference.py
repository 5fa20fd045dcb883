"""What the published code did, as `make_reference_goldens.py` left it in `reference_goldens.npz`."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

GOLDENS = np.load(Path(__file__).with_name("reference_goldens.npz"), allow_pickle=False)
CAPTIONS, VIEWS, STEPS = 5, 6, 5
"""Captions a batch, images of each, batches."""
NUM_VIEWS = {"simclr": 2, "clip": 1}
"""Of the runs that have others than `VIEWS`."""
MAX_LOG_SCALE = 4.6052
"""The reference's bound of the logit scale; its lower one is 0."""


def golden(part: str) -> dict[str, Tensor]:
    """A part's arrays of numbers; those of floats in float64."""
    arrays = {name: GOLDENS[name] for name in GOLDENS.files if name.startswith(f"{part}/")}
    tensors = {name.removeprefix(f"{part}/"): torch.from_numpy(array) for name, array in arrays.items()}
    return {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def batches(part: str) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Of each step: images of groups side by side `[5 * views, 3, 3, 3]`, a word a group, prompt ids."""
    images, words = torch.from_numpy(GOLDENS["images"]).double(), torch.from_numpy(GOLDENS["words"])
    # SynCLR's five steps took the captions in order.
    in_order = torch.arange(STEPS * CAPTIONS).view(STEPS, CAPTIONS)
    for taken in golden(part).get("taken", in_order):
        # Prompt ids are hashes, of any size and sign.
        views = images[taken].view(CAPTIONS, VIEWS, 3, 3, 3)[:, : NUM_VIEWS.get(part, VIEWS)]
        yield views.flatten(0, 1), words[taken], taken * -(2**58) + 7
