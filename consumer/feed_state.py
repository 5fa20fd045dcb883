"""Where a feed stands in the stream: the part of a checkpoint that says what was used, in a form that ranks can share.

The state of each rank is about its own indices alone. So the states of all ranks add up to that of one rank that owns
everything, and that one can be dealt out again to another number of ranks.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any

from penstock.consumer.ownership import owned_indices
from penstock.consumer.reuse import Usage


@dataclass(frozen=True, slots=True, order=True)
class Kept:
    """A group in the reservoir, without its pixels: its ticket makes those again."""

    index: int
    uses: int
    stand_in: int
    """0, or which stand-in the group is."""
    used_at: int = -1
    """Step of the last use; -1 before the first."""

    @property
    def usage(self) -> Usage:
        """As the reservoir knows it."""
        return Usage(self.uses, self.used_at)


class Entered:
    """Which of a rank's indices have entered its reservoir: all below a cursor, and some beyond it.

    Args:
        rank, world_size: which indices are the rank's.
        cursor: where to look for the first that has not entered.
        beyond: indices from the cursor on that have entered, because groups come in any order.
    """

    def __init__(self, rank: int, world_size: int, cursor: int = 0, beyond: Iterable[int] = ()) -> None:
        self._step = world_size
        self.cursor = next(owned_indices(rank, world_size, cursor))
        """The lowest index that has not entered."""
        self.beyond = set(beyond)
        self._advance()

    def add(self, index: int) -> None:
        """The group at `index` enters; one that came back from an earlier life has entered before."""
        if index >= self.cursor:
            self.beyond.add(index)
            self._advance()

    def _advance(self) -> None:
        while self.cursor in self.beyond:
            self.beyond.remove(self.cursor)
            self.cursor += self._step


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedState:
    """Where rank `rank` of `world_size` stands after an optimizer step."""

    rank: int
    world_size: int
    cursor: int
    """The lowest owned index that has not entered the reservoir."""
    entered: tuple[int, ...] = ()
    """Indices beyond the cursor that have entered."""
    kept: tuple[Kept, ...] = ()
    """What is in the reservoir."""

    @classmethod
    def beginning(cls, rank: int, world_size: int) -> "FeedState":
        """Nothing has entered yet."""
        return cls(rank=rank, world_size=world_size, cursor=rank)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self) | {"kept": [astuple(kept) for kept in self.kept]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "FeedState":
        """From `to_json`. Raises TypeError or KeyError where that is not what it is."""
        kept = tuple(Kept(*entry) for entry in value["kept"])
        return cls(**{**value, "entered": tuple(value["entered"]), "kept": kept})

    def share(self, rank: int, world_size: int) -> "FeedState":
        """What belongs to `rank` of `world_size`, of the state of a rank that owns everything."""
        mine = [index for index in self.entered if index % world_size == rank]
        entered = Entered(rank, world_size, self.cursor, mine)
        return FeedState(
            rank=rank,
            world_size=world_size,
            cursor=entered.cursor,
            entered=tuple(sorted(entered.beyond)),
            kept=tuple(kept for kept in self.kept if kept.index % world_size == rank),
        )


def merge(parts: Sequence[FeedState]) -> FeedState:
    """The states of all ranks of a life as that of one rank that owns everything.

    Raises ValueError where a rank's is missing.
    """
    num_ranks = parts[0].world_size
    ranks = sorted(part.rank for part in parts)
    if ranks != list(range(num_ranks)) or any(part.world_size != num_ranks for part in parts):
        raise ValueError(f"the states of ranks 0 to {num_ranks - 1} are needed, got those of {ranks}")
    cursor = min(part.cursor for part in parts)
    entered: list[int] = []
    for part in parts:
        entered += [index for index in range(part.rank, part.cursor, num_ranks) if index >= cursor]
        entered += part.entered
    return FeedState(
        rank=0,
        world_size=1,
        cursor=cursor,
        entered=tuple(sorted(entered)),
        kept=tuple(sorted(kept for part in parts for kept in part.kept)),
    )
