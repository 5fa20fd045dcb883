"""The reservoir: groups kept in a rank's memory so that each is used again with new augmentations.

Data echoing (Choi et al. 2019, arXiv 1907.05550) at the level of groups. Every group is used by exactly `reuse`
optimizer steps and by none of them twice. Batches are drawn at random, so that a group meets new company at every
use.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from penstock.consumer.stream import Group


@dataclass(frozen=True, slots=True)
class Use:
    """One use of a group in a batch."""

    group: Group
    echo: int
    """Uses of the group before this one, from 0: with it every use gets augmentations of its own."""


@dataclass(slots=True)
class _Kept:
    group: Group
    uses: int


class Reservoir:
    """Groups with their use counts.

    Args:
        capacity_groups: groups kept at most.
        reuse: uses of each group; with the last one it leaves.
        seed: decides the draws, together with the step.
    """

    def __init__(self, *, capacity_groups: int, reuse: int, seed: Sequence[int]) -> None:
        self.capacity_groups = capacity_groups
        self.reuse = reuse
        self._seed = tuple(seed)
        self._kept: list[_Kept] = []

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def full(self) -> bool:
        """Whether another group would be too many."""
        return len(self._kept) >= self.capacity_groups

    @property
    def contents(self) -> list[tuple[Group, int]]:
        """Groups and how often each has been used, in the order of the draws' bookkeeping."""
        return [(kept.group, kept.uses) for kept in self._kept]

    def put(self, group: Group, uses: int = 0) -> None:
        """Keep a group that has been used `uses` times. Raises ValueError where the reservoir is full."""
        if self.full:
            raise ValueError(f"the reservoir holds {len(self._kept)} groups, its capacity")
        self._kept.append(_Kept(group, uses))

    def draw(self, num_groups: int, step: int) -> list[Use]:
        """Use `num_groups` different groups at random; those used up leave.

        Raises ValueError where fewer are kept.
        """
        if num_groups > len(self._kept):
            raise ValueError(
                f"a batch of {num_groups} groups needs as many in the reservoir, it holds {len(self._kept)}"
            )
        rng = np.random.default_rng([*self._seed, step])
        chosen = [self._kept[position] for position in rng.choice(len(self._kept), num_groups, replace=False)]
        uses = [Use(kept.group, kept.uses) for kept in chosen]
        for kept in chosen:
            kept.uses += 1
        self._kept = [kept for kept in self._kept if kept.uses < self.reuse]
        return uses
