"""How often a group is used: the rule behind the reservoir's policies.

Data echoing (Choi et al. 2019, arXiv 1907.05550) uses a group again, with new augmentations, rather than wait for a
fresh one. Three policies, one rule: a group is *due* until it has been used `min_reuse` times, *spare* from then on,
and *spent* after `max_reuse` uses.

- `fixed`: both are e. Nothing is ever spare; when the fleet is faster than the trainer it is held back.
- `fresh`: both are 1.
- `adaptive`: between the two, the factor follows the fleet. A step takes what is due first; only where that is too
  little does it use spare groups again. A group that comes takes the place of the oldest of the most used spare ones.
  So the echo rises only while fresh groups lag, and falls with the first step after they come.
"""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Usage:
    """How a group in the reservoir has been used."""

    uses: int = 0
    used_at: int = -1
    """Step of the last use; -1 before the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReusePolicy:
    """When a group may be used, and when it may or must leave."""

    min_reuse: int
    """Uses that every group gets."""
    max_reuse: int
    """Uses that no group exceeds."""
    min_distance_steps: int = 1
    """Steps from one use of a group to the next, at least. A group is never used twice in one step."""

    @classmethod
    def fixed(cls, reuse: int) -> "ReusePolicy":
        """Every group exactly `reuse` times."""
        return cls(min_reuse=reuse, max_reuse=reuse)

    def may_use(self, usage: Usage, step: int) -> bool:
        """Whether a group is far enough from its last use."""
        return usage.uses == 0 or step - usage.used_at >= self.min_distance_steps

    def is_due(self, usage: Usage) -> bool:
        """Whether a group has uses to come that it must get."""
        return usage.uses < self.min_reuse

    def is_spent(self, usage: Usage) -> bool:
        """Whether a group has had its last use."""
        return usage.uses >= self.max_reuse

    def num_spare(self, usage: Mapping[int, Usage]) -> int:
        """How many groups may give place to newcomers."""
        if self.min_reuse == self.max_reuse:
            return 0
        return sum(not self.is_due(used) for used in usage.values())

    def leaving(self, num_groups: int, usage: Mapping[int, Usage]) -> list[int]:
        """The spare groups that give place first: the most used, of those the oldest. At most `num_groups` indices."""
        if self.min_reuse == self.max_reuse:
            return []
        spare = ((-used.uses, index) for index, used in usage.items() if not self.is_due(used))
        return [index for _, index in heapq.nsmallest(num_groups, spare)]
