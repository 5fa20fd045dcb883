"""What the mismatch filter does to a run: images made and rejected, by concept and by prompt.

A scorer finds some things harder to recognise than others, so a filter by score takes more of some concepts than of
others, most of those that the generator or the scorer has seen least of: it removes tails. Whoever filters should see
which.
"""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from accelerate import Accelerator

from penstock.consumer.group import Group
from penstock.consumer.ranks import gather_strings
from penstock.protocol.tickets import Ticket

_HARDEST = 5
"""Prompts that are named in the end."""
_COUNTED_PROMPTS = 4096
"""Prompts whose rejections are counted at a time; beyond twice as many the least rejected are forgotten."""
_PROMPT_BYTES = 200


class FilterCounts:
    """Counts what one rank's groups cost. Groups that a resumed run makes again count again.

    Args:
        num_concepts: classes of the prompts.
        concept_of: class of a ticket's prompt, -1 where it has none.
    """

    def __init__(self, num_concepts: int, concept_of: Callable[[Ticket], int]) -> None:
        self._concept_of = concept_of
        self._changing = threading.Lock()
        """A look from another thread sees a group whole or not at all."""
        self._unsatisfied = 0
        self._made = [0] * (num_concepts + 1)
        """By concept; the last is of prompts without any."""
        self._rejected = [0] * (num_concepts + 1)
        self._by_prompt: Counter[str] = Counter()

    def add(self, group: Group) -> None:
        """A group has come; one that was not filtered does not count."""
        if not group.num_made:
            return
        concept = self._concept_of(group.ticket)
        rejected = group.num_made - len(group.images)
        with self._changing:
            self._made[concept] += group.num_made
            self._rejected[concept] += rejected
            self._unsatisfied += group.num_unsatisfied
        if rejected:
            self._by_prompt[group.ticket.recipe.prompt] += rejected
            if len(self._by_prompt) > 2 * _COUNTED_PROMPTS:
                self._by_prompt = Counter(dict(self._by_prompt.most_common(_COUNTED_PROMPTS)))

    @property
    def values(self) -> list[int]:
        """All counts, as `FilterTotals.of` reads them; those of several ranks or lives are added place by place."""
        with self._changing:
            return [self._unsatisfied, *self._made, *self._rejected]

    def gather_hardest(self, accelerator: Accelerator, earlier: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
        """Prompts with the most rejections over all ranks, and how many. All ranks call it together.

        Args:
            accelerator: of this process.
            earlier: what earlier lives of the run have found.
        """
        mine = self._by_prompt.most_common(_HARDEST)
        lines = [f"{count} {_cut(prompt)}" for prompt, count in mine] + [""] * (_HARDEST - len(mine))
        found = Counter(dict(earlier))
        for line in lines:
            for text in gather_strings(accelerator, line):
                count, _, prompt = text.partition(" ")
                if prompt:
                    found[prompt] += int(count)
        return found.most_common(_HARDEST)


def _cut(prompt: str) -> str:
    """What ranks can tell each other of a prompt."""
    return prompt.encode()[:_PROMPT_BYTES].decode(errors="ignore")


@dataclass(frozen=True, slots=True)
class FilterTotals:
    """What a run's filter has done so far."""

    unsatisfied: int
    """Images that were rejected and kept, because all candidates of their group were made."""
    made: tuple[int, ...]
    """Images made, by concept; the last is of prompts without any."""
    rejected: tuple[int, ...]
    """Images of them that were not kept."""

    @classmethod
    def of(cls, values: Sequence[int]) -> "FilterTotals | None":
        """From `FilterCounts.values`, added up; None where there are none."""
        if not values:
            return None
        unsatisfied, *rest = values
        half = len(rest) // 2
        return cls(unsatisfied, tuple(rest[:half]), tuple(rest[half:]))

    @property
    def rejected_fraction(self) -> float:
        """Share of the images made that were not kept."""
        return sum(self.rejected) / sum(self.made) if any(self.made) else 0.0
