"""What is counted of a filter, by concept and by prompt, over ranks and lives."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator

from penstock.consumer.filter_counts import FilterCounts, FilterTotals
from penstock.consumer.group import Group
from penstock.protocol.tickets import Ticket
from tests.protocol.samples import MANIFEST, a_ticket

CONCEPTS = {0: 0, 1: 2, 2: -1, 3: 2}
"""By index."""


def _concept(ticket: Ticket) -> int:
    return CONCEPTS[ticket.index]


def _group(index: int, num_made: int, unsatisfied: int = 0, prompt: str = "") -> Group:
    ticket = a_ticket(index, prompt=prompt or f"prompt {index}")
    pixels = np.zeros(ticket.recipe.shape, np.uint8)
    return Group(ticket, pixels, "ann", MANIFEST, (0, 1), num_made, unsatisfied)


class _Ranks:
    """What gathering needs of an Accelerator: the other ranks say what this one does, or what they are told to."""

    device = torch.device("cpu")

    def __init__(self, others: list[str] | None = None) -> None:
        self._others = others or []

    def gather(self, row: torch.Tensor) -> torch.Tensor:
        other = torch.zeros_like(row)
        if self._others:
            text = self._others.pop(0).encode()
            other[0, : len(text)] = torch.tensor(list(text), dtype=torch.uint8)
        return torch.cat([row, other])


def test_images_made_and_rejected_are_counted_by_concept_and_those_of_real_groups_are_not() -> None:
    counts = FilterCounts(3, _concept)
    for group in (_group(0, 2), _group(1, 5), _group(3, 8, 1), _group(2, 3), _group(1, 0)):
        counts.add(group)
    totals = FilterTotals.of(counts.values)
    assert totals is not None
    assert totals.made == (2, 0, 13, 3)
    assert totals.rejected == (0, 0, 13 - 4, 1)
    assert totals.unsatisfied == 1
    assert totals.rejected_fraction == 10 / 18


def test_counts_of_ranks_and_lives_are_added_place_by_place() -> None:
    first, second = FilterCounts(3, _concept), FilterCounts(3, _concept)
    first.add(_group(0, 4))
    second.add(_group(1, 6, 2))
    totals = FilterTotals.of([a + b for a, b in zip(first.values, second.values, strict=True)])
    assert totals == FilterTotals(2, (4, 0, 6, 0), (2, 0, 4, 0))
    assert FilterTotals.of([]) is None


def test_the_prompts_with_most_rejections_are_those_of_all_ranks_and_lives() -> None:
    counts = FilterCounts(3, _concept)
    for _ in range(3):
        counts.add(_group(0, 5, prompt="hard"))
    counts.add(_group(0, 2, prompt="easy"))
    counts.add(_group(1, 3, prompt="é" * 300))
    ranks = cast(Accelerator, _Ranks(["4 elsewhere", "2 hard"]))
    found = counts.gather_hardest(ranks, [("earlier", 8), ("hard", 1)])
    assert found == [("hard", 9 + 2 + 1), ("earlier", 8), ("elsewhere", 4), ("é" * 100, 1)]


def test_of_very_many_prompts_the_least_rejected_are_forgotten() -> None:
    counts = FilterCounts(0, lambda ticket: -1)
    for number in range(10_000):
        counts.add(_group(0, 7 if number == 0 else 3, prompt=f"prompt {number}"))
    found = counts.gather_hardest(cast(Accelerator, _Ranks()), ())
    assert found[0] == ("prompt 0", 5)
    values: Any = SimpleNamespace(values=counts.values)
    assert FilterTotals.of(values.values) == FilterTotals(0, (7 + 3 * 9_999,), (5 + 9_999,))
