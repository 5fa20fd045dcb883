"""What every prompt source is: an endless, indexed sequence of captions.

A source is indexed, not iterated: the global index decides the prompt, so that any rank, any life of a run and any
producer agree on what stands where.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Prompt:
    """A caption, and what it is of."""

    text: str
    concept: int = -1
    """Its class: the place in the source's `concepts`; -1 where it has none."""


class PromptSource(Protocol):
    """An endless, indexed source of captions."""

    @property
    def digest(self) -> str:
        """Changes where the captions do; a run is resumed only with the same."""

    @property
    def concepts(self) -> tuple[str, ...]:
        """Names of the classes that the captions belong to; none where they have no concepts."""

    def prompt(self, index: int) -> Prompt:
        """What stands at global `index` >= 0: a pure function of the source, the seed and the index."""


@runtime_checkable
class HasCaptions(Protocol):
    """A source that goes through a finite number of captions."""

    @property
    def num_captions(self) -> int:
        """How many: what there is to say where a source is not what it was."""


def num_captions(source: PromptSource) -> int:
    """Captions that a source goes through; 0 where they are without number."""
    return source.num_captions if isinstance(source, HasCaptions) else 0
