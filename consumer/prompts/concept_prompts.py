"""A prompt source of concepts times templates: endless, even over the concepts, and remembered nowhere.

Each concept stands once in every round of C prompts, in an order of the round's own. Template and fillers are hashes of
seed and index, so a prompt costs the same wherever it stands. Random streams of NumPy's Generator may change from one
version to the next; raw words of Philox and BLAKE2b do not.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from penstock.consumer.prompts.concept_list import Concept
from penstock.consumer.prompts.source import Prompt
from penstock.consumer.prompts.templates import CONCEPT, OTHER, Templates
from penstock.protocol.errors import ConfigError
from penstock.protocol.limits import MAX_PROMPT_BYTES

_SCHEME = "concepts 1"
"""Changes where the same lists would give other prompts."""
_CACHED_INDICES = 1 << 18
"""A batch asks again for the concepts of its groups, which may have been in the reservoir for long."""


class ConceptPrompts:
    """Captions of concepts.

    Args:
        concepts: at least one.
        templates: at least one; with `{other}` only where there are two concepts.
        seed: decides orders and draws.

    Raises ConfigError where a caption could be longer than a prompt may be.
    """

    def __init__(self, concepts: Sequence[Concept], templates: Templates, seed: int) -> None:
        self.concepts = tuple(concept.name for concept in concepts)
        self._spellings = tuple(concept.spellings for concept in concepts)
        self._templates = templates.templates
        self._lists = templates.lists
        self._seed = seed
        self._order = lru_cache(maxsize=min(64, _CACHED_INDICES // len(concepts) + 3))(self._shuffle)
        content = json.dumps([_SCHEME, seed, self._spellings, templates.digest])
        self.digest = hashlib.sha256(content.encode()).hexdigest()
        self._check_lengths()

    def prompt(self, index: int) -> Prompt:
        """What stands at `index`: a concept of its round, in a template."""
        cycle, position = divmod(index, len(self.concepts))
        concept = int(self._order(cycle)[position])
        template = self._templates[self._draw(index, "template", len(self._templates))]
        words = {field: self._word(index, concept, field) for field in template.fields}
        return Prompt(template.fill(words), concept)

    def _word(self, index: int, concept: int, field: str) -> str:
        """What stands in a field."""
        if field == OTHER:
            # One of the C - 1 others: those from the concept on move up by one.
            other = self._draw(index, OTHER, len(self.concepts) - 1)
            return self.concepts[other + (other >= concept)]
        choices = self._spellings[concept] if field == CONCEPT else self._lists[field]
        return choices[self._draw(index, field, len(choices))]

    def _draw(self, index: int, what: str, num_choices: int) -> int:
        """A choice that no other draw of the same prompt changes; the bias of the remainder is below 2^-40."""
        word = hashlib.blake2b(f"{self._seed} {index} {what}".encode(), digest_size=8).digest()
        return int.from_bytes(word) % num_choices

    def _shuffle(self, cycle: int) -> NDArray[np.intp]:
        """The order of a round: int [C]."""
        words = np.random.Philox(key=[self._seed, cycle]).random_raw(len(self.concepts))
        return np.argsort(words, kind="stable")

    def _check_lengths(self) -> None:
        """Raise ConfigError where the longest fillers would make a caption too long."""
        longest = {field: max(map(_num_bytes, words)) for field, words in self._lists.items()}
        longest[CONCEPT] = longest[OTHER] = max(_num_bytes(spelling) for each in self._spellings for spelling in each)
        for template in self._templates:
            fixed = sum(_num_bytes(text) + len("an ") for text, _, _ in template.pieces)
            total = fixed + sum(longest[field] for _, _, field in template.pieces if field)
            if total > MAX_PROMPT_BYTES:
                raise ConfigError(
                    f"prompts.templates: {template.pieces[0][0][:40]!r}... makes captions of up to {total} bytes; a "
                    f"caption has at most {MAX_PROMPT_BYTES}"
                )


def _num_bytes(text: str) -> int:
    return len(text.encode())
