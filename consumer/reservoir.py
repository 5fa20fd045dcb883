"""The reservoir: groups kept in a rank's memory so that each can be used again with new augmentations.

It is bounded: `capacity_groups` follows from the configured groups and bytes. How often a group is used and which one
gives place to a newcomer is the policy's business (`reuse.py`); which groups meet in a step, that of `schedule.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from penstock.consumer.group import Group
from penstock.consumer.reuse import ReusePolicy, Usage


@dataclass(frozen=True, slots=True)
class Use:
    """One use of a group in a batch."""

    group: Group
    echo: int
    """Uses of the group before this one, from 0: with it every use gets augmentations of its own."""


class Reservoir:
    """Groups with their use counts, by global index.

    Args:
        capacity_groups: groups kept at most. Those of an earlier life may be more: that one may have had more ranks.
        policy: uses of each group; with the last one it leaves.
    """

    def __init__(self, *, capacity_groups: int, policy: ReusePolicy) -> None:
        self.capacity_groups = capacity_groups
        """Groups kept at most, but for those of an earlier life."""
        self._policy = policy
        self._groups: dict[int, Group] = {}
        self._usage: dict[int, Usage] = {}
        self.nbytes = 0
        """Bytes of the pixels that are kept."""

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def usage(self) -> Mapping[int, Usage]:
        """How each group that is kept has been used, by index, in the order in which they came. A view."""
        return MappingProxyType(self._usage)

    @property
    def groups(self) -> list[Group]:
        """What is kept, in the order in which it came."""
        return list(self._groups.values())

    @property
    def room(self) -> int:
        """How many newcomers can be kept, spare groups leaving for them."""
        return max(0, self.capacity_groups - len(self._groups)) + self._policy.num_spare(self._usage)

    def make_room(self, num_newcomers: int) -> None:
        """Let spare groups leave, as far as newcomers need their places."""
        lacking = len(self._groups) + num_newcomers - self.capacity_groups
        if lacking > 0:
            for index in self._policy.leaving(lacking, self._usage):
                self._drop(index)

    def put(self, group: Group, usage: Usage | None = None) -> None:
        """Keep a group, with the uses that it has had. Raises ValueError where it is kept already."""
        index = group.ticket.index
        if index in self._groups:
            raise ValueError(f"group {index} is in the reservoir already")
        self._groups[index] = group
        self._usage[index] = usage or Usage()
        self.nbytes += group.images.nbytes

    def use(self, indices: Sequence[int], step: int) -> list[Use]:
        """Use the groups at `indices` once each in `step`; those spent leave. Raises KeyError where one is not kept."""
        uses = []
        for index in indices:
            before = self._usage[index]
            uses.append(Use(self._groups[index], before.uses))
            self._usage[index] = Usage(before.uses + 1, step)
            if self._policy.is_spent(self._usage[index]):
                self._drop(index)
        return uses

    def _drop(self, index: int) -> None:
        self.nbytes -= self._groups.pop(index).images.nbytes
        del self._usage[index]
