"""The toy world's prompts: captions of handwritten digits, drawn independently for each index."""

from penstock.consumer.prompts.source import Prompt
from penstock.toyworld.captions import DIGIT_WORDS, Captioner, digit_of


class ToyWorldPrompts:
    """Captions of handwritten digits; their concept is the digit."""

    def __init__(self, seed: int) -> None:
        self._captioner = Captioner(seed)
        self.digest = f"toyworld {seed}"
        self.concepts = DIGIT_WORDS

    def prompt(self, index: int) -> Prompt:
        """What stands at `index`."""
        text = self._captioner.prompt(index).text
        return Prompt(text, digit_of(text))
