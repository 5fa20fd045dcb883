"""What the prompts of a run ask for: one pass over its ledger, in memory a few bytes a group."""

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from penstock.deploy.audit_attributes import MAX_VALUES, Attribute, is_toy_caption
from penstock.protocol.tickets import Kind

if TYPE_CHECKING:
    from penstock.consumer.ledger_file import LedgerGroup
    from penstock.consumer.ledger_reader import LedgerReader

_LOOK_GROUPS = 200
"""Groups whose prompts say whether a run is on the toy world."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What there is to look for."""

    num_generated: int
    num_real: int
    """Left out: nobody generated them."""
    is_toyworld: bool
    concepts: tuple[str, ...]
    """By frequency, the most frequent ones first, at most `MAX_VALUES`."""
    num_concepts: int


@dataclass(frozen=True, slots=True)
class PromptCounts:
    """What the G generated groups' prompts name."""

    codes: NDArray[np.int16]
    """int16 [G, A]: each attribute's value by its place, `FREE` or `SEVERAL`."""
    uses: NDArray[np.int64]
    """int64 [G]: steps that used the group."""

    def counts(self, attribute: int, num_values: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """How many groups, and how many uses of such, name each value: int64 [V] each."""
        code = self.codes[:, attribute]
        named = code >= 0
        groups = np.bincount(code[named], minlength=num_values)
        uses = np.bincount(code[named], weights=self.uses[named], minlength=num_values)
        return groups.astype(np.int64), np.rint(uses).astype(np.int64)


def survey(ledger: "LedgerReader") -> Survey:
    """Look through the ledger once."""
    num_generated = num_real = num_toy = 0
    concepts: Counter[str] = Counter()
    for group in ledger.groups():
        if group.manifest.kind is Kind.REAL:
            num_real += 1
            continue
        if num_generated < _LOOK_GROUPS:
            num_toy += is_toy_caption(group.recipe.prompt)
        num_generated += 1
        if group.concept:
            concepts[group.concept] += 1
    frequent = tuple(sorted(name for name, _ in concepts.most_common(MAX_VALUES)))
    is_toyworld = 0 < min(num_generated, _LOOK_GROUPS) == num_toy
    return Survey(num_generated, num_real, is_toyworld, frequent, len(concepts))


def count_prompts(
    ledger: "LedgerReader", attributes: Sequence[Attribute], places: NDArray[np.int64]
) -> tuple[PromptCounts, "list[LedgerGroup]"]:
    """What the generated groups' prompts name, and some of these groups.

    Args:
        ledger: of the run.
        attributes: what to look for.
        places: int64 [n], ascending: which of the generated groups to give back, counted from 0 by index.
    """
    indices, codes = array("q"), array("h")
    taken = []
    wanted = iter(places.tolist())
    next_place = next(wanted, None)
    for group in ledger.groups():
        if group.manifest.kind is Kind.REAL:
            continue
        if len(indices) == next_place:
            taken.append(group)
            next_place = next(wanted, None)
        indices.append(group.index)
        codes.extend(attribute.named_by(group.recipe.prompt, group.concept) for attribute in attributes)
    index = np.frombuffer(indices, np.int64) if indices else np.empty(0, np.int64)
    code = np.frombuffer(codes, np.int16).reshape(len(index), len(attributes))
    return PromptCounts(code, _count_uses(ledger, index)), taken


def _count_uses(ledger: "LedgerReader", index: NDArray[np.int64]) -> NDArray[np.int64]:
    """In how many steps each of the groups at these indices was used: int64 [G]."""
    indices, uses = ledger.use_counts()
    return uses[np.searchsorted(indices, index)]
