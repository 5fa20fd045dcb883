"""Few-shot classification by prototypes on frozen features, over many small random tasks.

An episode draws some classes ("ways"), some labelled images of each ("shots") and others of the same classes to
classify ("queries"). A class's prototype is the mean of its shots' unit features; a query goes to the prototype of
highest cosine. After Snell et al., "Prototypical Networks" (NeurIPS 2017), with nothing trained. The mean's interval
tells of the draw of the episodes, all from one set of images, not of the draw of the images.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from penstock.consumer.evaluation.config import FewShotConfig
from penstock.consumer.evaluation.intervals import Interval, z_score


@dataclass(frozen=True, slots=True)
class FewShot:
    """Mean accuracy over episodes, 0 .. 1."""

    accuracy: float
    interval: Interval


def few_shot(
    features: Tensor,
    labels: Tensor,
    ids: Tensor,
    setting: FewShotConfig,
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> FewShot | str:
    """Mean accuracy over episodes, or why there can be none.

    Args:
        features: `[N, D]`, any scale.
        labels: int64 `[N]`.
        ids: int64 `[N]`; an episode never holds two rows of one id, so that no query has a sibling among the shots.
    """
    pools = _pools(labels.numpy(force=True), ids.numpy(force=True))
    needed = setting.shots + setting.queries
    pools = [pool for pool in pools if len(pool.starts) >= needed]
    if len(pools) < setting.ways:
        return f"needs {setting.ways} classes with {needed} different images each, found {len(pools)}"
    unit = F.normalize(features.float(), dim=1)
    rng = np.random.default_rng(seed)
    accuracies = np.array([_episode(unit, pools, setting, rng) for _ in range(setting.episodes)])
    mean = float(accuracies.mean())
    reach = z_score(confidence) * float(accuracies.std(ddof=1)) / math.sqrt(len(accuracies))
    return FewShot(mean, Interval(max(0.0, mean - reach), min(1.0, mean + reach), f"over {len(accuracies)} episodes"))


@dataclass(frozen=True, slots=True)
class _Pool:
    """Rows of one class, those of one id side by side: id i has `counts[i]` of them from `starts[i]` on."""

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]

    def draw(self, num: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """`num` rows of different ids."""
        chosen = rng.choice(len(self.starts), num, replace=False)
        drawn: NDArray[np.int64] = self.rows[self.starts[chosen] + rng.integers(self.counts[chosen])]
        return drawn


def _pools(labels: NDArray[np.int64], ids: NDArray[np.int64]) -> list[_Pool]:
    pools = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        rows = rows[np.argsort(ids[rows], kind="stable")]
        _, starts, counts = np.unique(ids[rows], return_index=True, return_counts=True)
        pools.append(_Pool(rows, starts, counts))
    return pools


def _episode(unit: Tensor, pools: list[_Pool], setting: FewShotConfig, rng: np.random.Generator) -> float:
    classes = rng.choice(len(pools), setting.ways, replace=False)
    rows = np.stack([pools[place].draw(setting.shots + setting.queries, rng) for place in classes])
    drawn_WSD = unit[torch.from_numpy(rows).to(unit.device)]
    prototypes_WD = F.normalize(drawn_WSD[:, : setting.shots].mean(dim=1), dim=1)
    nearest_WQ = (drawn_WSD[:, setting.shots :] @ prototypes_WD.T).argmax(dim=2)
    return float((nearest_WQ == torch.arange(setting.ways, device=unit.device)[:, None]).float().mean())
