"""The prompts of a run some of whose groups are real: of a prompt source, and of a set of real images."""

from penstock.consumer.mixture import Mixture
from penstock.consumer.prompts.source import Prompt, PromptSource, num_captions
from penstock.consumer.prompts.writer import STAND_IN_STRIDE


class MixedPrompts:
    """Generated and real groups in turn; equal names are one concept.

    Args:
        generated: captions of what is generated.
        real: captions of the set; their digest is the set's.
        fraction: share of the groups that are real, above 0.
        seed: the run's.
    """

    def __init__(self, generated: PromptSource, real: PromptSource, fraction: float, seed: int) -> None:
        self._generated = generated
        self._real = real
        self._mixture = Mixture(fraction, seed)
        self.digest = generated.digest
        """Of the captions that are generated from; the real ones stand and fall with their set."""
        self.num_captions = num_captions(generated)
        """Of those that are generated from; 0 where they are without number."""
        self.real_digest = real.digest
        if fraction == 1:
            self.concepts = real.concepts
        else:
            both = generated.concepts and real.concepts
            self.concepts = tuple(sorted({*generated.concepts, *real.concepts})) if both else ()
        self._place = {name: place for place, name in enumerate(self.concepts)}

    def is_real(self, index: int) -> bool:
        """Whether the group at global `index` is real; so are its stand-ins."""
        return self._mixture.place(index % STAND_IN_STRIDE).is_real

    def prompt(self, index: int) -> Prompt:
        """What stands at `index`: the next of its kind."""
        place = self._mixture.place(index % STAND_IN_STRIDE)
        source = self._real if place.is_real else self._generated
        prompt = source.prompt(place.ordinal + index // STAND_IN_STRIDE * STAND_IN_STRIDE)
        if not self.concepts or prompt.concept < 0:
            return Prompt(prompt.text)
        return Prompt(prompt.text, self._place[source.concepts[prompt.concept]])
