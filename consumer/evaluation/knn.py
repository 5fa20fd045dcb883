"""Weighted nearest-neighbour classification on frozen features: the quickest honest look at a representation.

Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination" (CVPR 2018), section
3.4: the k bank rows of highest cosine s vote for their class with weight exp(s / temperature). By custom k is
20 and the temperature 0.07. Nothing is fitted, so there is nothing to tune on the data that is reported.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_QUERIES_AT_A_TIME = 1024


def knn_predict(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    *,
    k: int = 20,
    temperature: float = 0.07,
    exclude: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """The class that each query's neighbours in the bank vote for, int64 `[Q]`.

    Args:
        bank: `[N, D]` features, any scale; `bank_labels` int64 `[N]`, >= 0.
        queries: `[Q, D]` features.
        k: neighbours that vote; all of them where the bank holds fewer.
        exclude: int64 ids `[N]` of the bank and `[Q]` of the queries; rows of one id never see each other, so
            that renders of one scan do not vote for their sibling.

    Raises:
        ValueError: empty or mismatched inputs, k < 1, temperature <= 0.
    """
    _check("bank", bank, bank_labels)
    _check("queries", queries)
    if k < 1:
        raise ValueError(f"k must be >= 1, got {k}")
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    bank, queries = F.normalize(bank.float(), dim=1), F.normalize(queries.float(), dim=1)
    num_classes = int(bank_labels.max()) + 1
    predicted = []
    for start in range(0, len(queries), _QUERIES_AT_A_TIME):
        chunk = slice(start, start + _QUERIES_AT_A_TIME)
        cosine = queries[chunk] @ bank.T
        if exclude is not None:
            cosine.masked_fill_(exclude[1][chunk, None] == exclude[0][None, :], -torch.inf)
        nearest, index = cosine.topk(min(k, len(bank)), dim=1)
        # exp(s / temperature) up to a factor common to all; an excluded row has weight 0.
        votes = ((nearest - 1) / temperature).exp()
        score = votes.new_zeros(len(votes), num_classes).scatter_add_(1, bank_labels[index], votes)
        predicted.append(score.argmax(dim=1))
    return torch.cat(predicted)


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
    """Share of the queries, with `query_labels` int64 `[Q]`, that `knn_predict` classifies rightly, 0 .. 1.

    It takes and raises the same.
    """
    _check("queries", queries, query_labels)
    predicted = knn_predict(bank, bank_labels, queries, k=k, temperature=temperature, exclude=exclude)
    return int((predicted == query_labels).sum()) / len(queries)


def _check(name: str, features: Tensor, labels: Tensor | None = None) -> None:
    if features.ndim != 2 or len(features) == 0:
        raise ValueError(f"{name} must be [rows, D] with at least one row, got {list(features.shape)}")
    if labels is not None and labels.shape != features.shape[:1]:
        raise ValueError(f"{name} has {len(features)} rows but labels of shape {list(labels.shape)}")
