"""Prompts as the denoiser reads them: each text encoded once, the empty one at the start.

The m images of a group share a prompt, and prompts come again in later epochs, so what was encoded is kept, the last
used longest. Texts are encoded in blocks of one shape, so that a text's company changes no bit of it.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_BLOCK = 8
"""Texts encoded at a time."""
_CACHE_BYTES = 256 << 20
"""Device memory for encoded texts: 2,000 of Stable Diffusion 1.5, 800 of XL."""


@dataclass(frozen=True, slots=True)
class Text:
    """A table of P prompts, as the denoiser reads them."""

    states: Tensor
    """Of every token: [P, L, D]."""
    pooled: Tensor | None
    """Of each whole text: [P, E]; None where the model takes none."""

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return self.states.nbytes + (self.pooled.nbytes if self.pooled is not None else 0)


class PromptEncoder:
    """Encodes prompts with a pipeline's own text encoders.

    Args:
        pipeline: a diffusers pipeline of the Stable Diffusion family, on its device.
        device: where the encoders are.
    """

    def __init__(self, pipeline: Any, device: torch.device) -> None:
        self._pipeline = pipeline
        self._device = device
        self._kept: OrderedDict[str, Text] = OrderedDict()
        self._kept_bytes = 0
        self.empty = self._encode_empty()
        """A table of the empty prompt alone."""

    def table(self, prompts: Sequence[str]) -> tuple[Text, list[int]]:
        """A table whose entry 0 is the empty prompt, and the place in it of each of `prompts`."""
        distinct = list(dict.fromkeys(prompts))
        texts = {prompt: self._kept[prompt] for prompt in distinct if prompt in self._kept}
        new = [prompt for prompt in distinct if prompt not in texts]
        for start in range(0, len(new), _BLOCK):
            block = new[start : start + _BLOCK]
            texts |= dict(zip(block, self._encode(block), strict=True))
        self._keep(texts)
        place = {prompt: number for number, prompt in enumerate(distinct, start=1)}
        table = _joined([self.empty, *(texts[prompt] for prompt in distinct)])
        return table, [place[prompt] for prompt in prompts]

    def _encode(self, block: Sequence[str]) -> list[Text]:
        padded = [*block, *[block[-1]] * (_BLOCK - len(block))]
        states, _, pooled = self._call(padded, with_empty=False)
        # Copies, because a view would keep the whole block.
        return [
            Text(states[i : i + 1].clone(), None if pooled is None else pooled[i : i + 1].clone())
            for i in range(len(block))
        ]

    def _encode_empty(self) -> Text:
        """What the pipeline takes for the empty prompt; not every model encodes an empty text for it."""
        _, states, pooled = self._call(["a"], with_empty=True)
        return Text(states[:1].clone(), None if pooled is None else pooled[:1].clone())

    def _call(self, prompts: list[str], *, with_empty: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """States of the prompts, states of the empty one where asked for, and what is pooled of the one asked for."""
        answer = self._pipeline.encode_prompt(
            prompt=prompts, device=self._device, num_images_per_prompt=1, do_classifier_free_guidance=with_empty
        )
        if len(answer) == 2:
            return answer[0], answer[1], None
        states, empty_states, pooled, empty_pooled = answer
        return states, empty_states, empty_pooled if with_empty else pooled

    def _keep(self, texts: dict[str, Text]) -> None:
        for prompt, text in texts.items():
            if prompt not in self._kept:
                self._kept_bytes += text.nbytes
            self._kept[prompt] = text
            self._kept.move_to_end(prompt)
        while self._kept_bytes > _CACHE_BYTES:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= oldest.nbytes


def _joined(texts: Sequence[Text]) -> Text:
    pooled = [text.pooled for text in texts if text.pooled is not None]
    return Text(torch.cat([text.states for text in texts]), torch.cat(pooled) if pooled else None)
