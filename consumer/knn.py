"""Weighted nearest-neighbour classification on frozen features: the quickest honest look at a representation.

Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination" (CVPR 2018), section
3.4: the k bank rows of highest cosine s vote for their class with weight exp(s / temperature). By custom k is
20 and the temperature 0.07. Nothing is fitted, so there is nothing to tune on the data that is reported.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import ViTModel

from penstock.kernels.augment import prepare
from penstock.kernels.augment_recipe import AugmentRecipe

_QUERIES_AT_A_TIME = 1024


def knn_accuracy(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    *,
    k: int = 20,
    temperature: float = 0.07,
    exclude: tuple[Tensor, Tensor] | None = None,
) -> float:
    """Share of the queries that their neighbours in the bank classify rightly, 0 .. 1.

    Args:
        bank: `[N, D]` features, any scale; `bank_labels` int64 `[N]`, >= 0.
        queries: `[Q, D]` features; `query_labels` int64 `[Q]`.
        k: neighbours that vote; all of them where the bank holds fewer.
        exclude: int64 ids `[N]` of the bank and `[Q]` of the queries; rows of one id never see each other, so
            that renders of one scan do not vote for their sibling.

    Raises:
        ValueError: empty or mismatched inputs, k < 1, temperature <= 0.
    """
    _check(bank, bank_labels, queries, query_labels, k, temperature)
    bank, queries = F.normalize(bank.float(), dim=1), F.normalize(queries.float(), dim=1)
    num_classes = int(bank_labels.max()) + 1
    num_right = 0
    for start in range(0, len(queries), _QUERIES_AT_A_TIME):
        chunk = slice(start, start + _QUERIES_AT_A_TIME)
        cosine = queries[chunk] @ bank.T
        if exclude is not None:
            cosine.masked_fill_(exclude[1][chunk, None] == exclude[0][None, :], -torch.inf)
        nearest, index = cosine.topk(min(k, len(bank)), dim=1)
        # exp(s / temperature) up to a factor common to all; an excluded row has weight 0.
        votes = ((nearest - 1) / temperature).exp()
        score = votes.new_zeros(len(votes), num_classes).scatter_add_(1, bank_labels[index], votes)
        num_right += int((score.argmax(dim=1) == query_labels[chunk]).sum())
    return num_right / len(queries)


@torch.no_grad()
def encode(encoder: ViTModel, images: Tensor, recipe: AugmentRecipe, *, batch_size: int = 256) -> Tensor:
    """CLS features, float32 `[N, hidden]` on the host, of uint8 images `[N, H, W, 3]`.

    Images are resized and normalised as `recipe` says. Runs in evaluation mode and leaves the encoder's mode
    alone.
    """
    was_training = encoder.training
    encoder.eval()
    features = [
        encoder(pixel_values=prepare(batch.to(encoder.device), recipe)).last_hidden_state[:, 0].float().cpu()
        for batch in images.split(batch_size)
    ]
    encoder.train(was_training)
    return torch.cat(features)


def pixel_features(images: Tensor) -> Tensor:
    """The floor that any encoder must beat: float32 `[N, H * W * 3]`, every image less its own mean colour.

    Taking each channel's mean away leaves the shape and drops the tint, so cosines compare the drawing.
    """
    pixels = images.float()
    return (pixels - pixels.mean(dim=(1, 2), keepdim=True)).flatten(1)


def _check(
    bank: Tensor, bank_labels: Tensor, queries: Tensor, query_labels: Tensor, k: int, temperature: float
) -> None:
    for name, features, labels in (("bank", bank, bank_labels), ("queries", queries, query_labels)):
        if features.ndim != 2 or len(features) == 0:
            raise ValueError(f"{name} must be [rows, D] with at least one row, got {list(features.shape)}")
        if labels.shape != features.shape[:1]:
            raise ValueError(f"{name} has {len(features)} rows but labels of shape {list(labels.shape)}")
    if k < 1:
        raise ValueError(f"k must be >= 1, got {k}")
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
