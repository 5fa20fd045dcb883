"""The reservoir: groups kept in a rank's memory so that each is used again with new augmentations.

Data echoing (Choi et al. 2019, arXiv 1907.05550) at the level of groups. Every group is used by exactly `reuse`
optimizer steps and by none of them twice. Which groups meet in a step is not decided here; see `schedule.py`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

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
    """Groups with their use counts, by global index.

    Args:
        capacity_groups: groups kept at most. Those of an earlier life may be more: that one may have had more ranks.
        reuse: uses of each group; with the last one it leaves.
    """

    def __init__(self, *, capacity_groups: int, reuse: int) -> None:
        self._capacity_groups = capacity_groups
        self._reuse = reuse
        self._kept: dict[int, _Kept] = {}

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def full(self) -> bool:
        """Whether another group would be too many."""
        return len(self._kept) >= self._capacity_groups

    @property
    def indices(self) -> Collection[int]:
        """What is kept, in the order in which it came."""
        return self._kept.keys()

    @property
    def contents(self) -> list[tuple[Group, int]]:
        """Groups and how often each has been used."""
        return [(kept.group, kept.uses) for kept in self._kept.values()]

    def put(self, group: Group, uses: int = 0) -> None:
        """Keep a group that has been used `uses` times. Raises ValueError where it is kept already."""
        index = group.ticket.index
        if index in self._kept:
            raise ValueError(f"group {index} is in the reservoir already")
        self._kept[index] = _Kept(group, uses)

    def use(self, indices: Sequence[int]) -> list[Use]:
        """Use the groups at `indices` once each; those used up leave. Raises KeyError where one is not kept."""
        uses = []
        for index in indices:
            kept = self._kept[index]
            uses.append(Use(kept.group, kept.uses))
            kept.uses += 1
            if kept.uses >= self._reuse:
                del self._kept[index]
        return uses
