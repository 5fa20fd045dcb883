"""What enters a rank's reservoir when, and what each step draws from it: without pixels, without waiting.

Two orders. In `arrival` order the rank has one pool; groups enter as they come, and a step draws at random from those
that are there, first from those that are due (`reuse.py`). That is fastest, and which step uses which group depends on
luck.

In `ticket` order nothing depends on luck. The reservoir is divided into G lanes, as many as a step has groups. Lane v
holds the global indices ≡ v (mod G); it is filled to the full before every step, and every step draws exactly one group
of every lane. What enters next is thus known without a look at what has come: indices, steps and uses are a function of
the seed and the configuration alone. The number of ranks divides G, so a lane lies on the rank that owns its indices,
whatever that number is, and all ranks together read one global order.

Random numbers for the lanes are raw words of Philox keyed by (seed, step): NumPy keeps raw words the same in all its
versions, and not what its Generator makes of them. So are those that choose the images of a use, keyed by (seed,
index).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Literal, Protocol

import numpy as np

from penstock.consumer.feed_state import FeedState
from penstock.consumer.ownership import owned_indices
from penstock.consumer.reuse import ReusePolicy, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A run's plan, and whose part of it this is."""

    rank: int
    world_size: int
    seed: int
    groups_per_step: int
    """Over all ranks; a multiple of their number."""
    capacity_groups: int
    """Over all ranks; at least `groups_per_step`."""
    policy: ReusePolicy

    @property
    def groups_per_batch(self) -> int:
        """Groups that this rank uses in a step."""
        return self.groups_per_step // self.world_size

    @property
    def capacity(self) -> int:
        """Groups that this rank keeps."""
        return len(range(self.rank, self.capacity_groups, self.world_size))

    def first_due(self, index: int) -> int:
        """The step at which the group at global `index` is first due; see `first_due`."""
        return first_due(index, self.capacity_groups, self.groups_per_step, self.policy)


def first_due(index: int, capacity_groups: int, groups_per_step: int, policy: ReusePolicy) -> int:
    """The first step that can lack a group: the reservoir is filled, then refilled as groups are used up.

    The same for any number of ranks, in any life of a run. In ticket order too the group enters about then.

    Args:
        index: the group's global index.
        capacity_groups, groups_per_step: over all ranks.
        policy: how often groups are used.
    """
    return max(0, (index - capacity_groups) * policy.min_reuse // groups_per_step)


@dataclass(frozen=True, slots=True)
class Entry:
    """A group that is to enter."""

    index: int
    need_by_step: int


class Order(Protocol):
    """What enters when, and what is drawn."""

    def upcoming(self, state: FeedState, step: int) -> Iterator[Entry]:
        """What is to enter after `state`, the next step being `step`; without end, and computed as it is asked for."""

    def draw(self, step: int, kept: Mapping[int, Usage]) -> list[int] | None:
        """Which of the `kept` indices this step uses, each at most once; None where more groups must come first."""


class ArrivalOrder:
    """One pool; what is there is what a step can draw."""

    def __init__(self, share: Share) -> None:
        self._share = share

    def upcoming(self, state: FeedState, step: int) -> Iterator[Entry]:
        """Every index that has not entered, in order."""
        entered = frozenset(state.entered)
        for index in owned_indices(state.rank, state.world_size, state.cursor):
            if index not in entered:
                yield Entry(index, max(step, self._share.first_due(index)))

    def draw(self, step: int, kept: Mapping[int, Usage]) -> list[int] | None:
        """A batch of what is there: of what is due, and only where that is too little of what is spare."""
        policy, needed = self._share.policy, self._share.groups_per_batch
        ready = [index for index, usage in kept.items() if policy.may_use(usage, step)]
        if len(ready) < needed:
            return None
        due = [index for index in ready if policy.is_due(kept[index])]
        spare = [] if len(due) >= needed else [index for index in ready if not policy.is_due(kept[index])]
        taken, pool = ([], due) if len(due) >= needed else (due, spare)
        rng = np.random.default_rng([self._share.seed, self._share.rank, step])
        return taken + [pool[position] for position in rng.choice(len(pool), needed - len(taken), replace=False)]


class TicketOrder:
    """A lane for each group of a step; which indices meet in a step follows from the seed alone."""

    def __init__(self, share: Share) -> None:
        self._share = share
        self._lanes = range(share.rank, share.groups_per_step, share.world_size)

    def upcoming(self, state: FeedState, step: int) -> Iterator[Entry]:
        """Each step's missing groups, lowest index first, by playing the steps ahead."""
        num_lanes = self._share.groups_per_step
        usage = {kept.index: kept.usage for kept in state.kept}
        entered = frozenset(state.entered)
        fresh = {
            lane: (index for index in owned_indices(lane, num_lanes, state.cursor) if index not in entered)
            for lane in self._lanes
        }
        for ahead in count(step):
            filled = {lane: len(members) for lane, members in self._members(usage).items()}
            missing = [next(fresh[lane]) for lane in self._lanes for _ in range(self._size(lane) - filled[lane])]
            for index in sorted(missing):
                usage[index] = Usage()
                yield Entry(index, ahead)
            for index in self.draw(ahead, usage) or []:
                usage[index] = Usage(usage[index].uses + 1, ahead)
                if self._share.policy.is_spent(usage[index]):
                    del usage[index]

    def draw(self, step: int, kept: Mapping[int, Usage]) -> list[int] | None:
        """One group of every lane, once all lanes are full. Raises ValueError where one holds what is another's."""
        if len(kept) < self._share.capacity:
            return None
        # The words of all lanes are drawn by every rank, so that a lane's word does not depend on where it lies.
        words = np.random.Philox(key=[self._share.seed, step]).random_raw(self._share.groups_per_step)
        drawn = []
        for lane, members in self._members(kept).items():
            if len(members) != self._size(lane):
                raise ValueError(f"lane {lane} must hold {self._size(lane)} groups at step {step}, got {len(members)}")
            drawn.append(members[int(words[lane]) * len(members) >> 64])
        return drawn

    def _members(self, kept: Iterable[int]) -> dict[int, list[int]]:
        """The indices in each lane, lowest first."""
        members: dict[int, list[int]] = {lane: [] for lane in self._lanes}
        for index in sorted(kept):
            members[index % self._share.groups_per_step].append(index)
        return members

    def _size(self, lane: int) -> int:
        """Groups that a lane holds."""
        return len(range(lane, self._share.capacity_groups, self._share.groups_per_step))


def open_order(name: Literal["arrival", "ticket"], share: Share) -> Order:
    """The order that `TrainConfig.order` names."""
    return TicketOrder(share) if name == "ticket" else ArrivalOrder(share)


def images_of_use(seed: int, index: int, echo: int, num_images: int, images_per_use: int) -> list[int]:
    """Which of a group's images a use takes: a draw without replacement, in ascending order, of its own for each use.

    A pure function of its arguments, so that the ledger need not name the images. StableRep made 10 images of a caption
    and used 6 of them at a time (arXiv 2306.00984, section 4).

    Args:
        seed: the run's.
        index: the group's global index.
        echo: earlier uses of the group.
        num_images: m, images of the group.
        images_per_use: images to take, 1 to `num_images`; all of them need no draw.
    """
    if images_per_use == num_images:
        return list(range(num_images))
    # The last word of the counter keeps these words apart from those of the lanes.
    words = np.random.Philox(key=[seed, index], counter=[0, 0, echo, 1]).random_raw(num_images)
    return sorted(np.argsort(words, kind="stable")[:images_per_use].tolist())
