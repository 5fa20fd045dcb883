"""Inputs as generation gives them, from which eight-bit arithmetic learns its ranges: noise would teach wrong ones."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from penstock.producer.backends.part import Call, Part
from penstock.producer.denoising import Denoiser, Row
from penstock.producer.guidance import Guidance
from penstock.producer.text import PromptEncoder

PROMPTS = (
    "a photograph of a red fox in fresh snow",
    "an old wooden boat on a quiet lake at dawn",
    "a crowded street market in the rain, seen from above",
    "a bowl of oranges on a blue tablecloth, oil painting",
    "portrait of an elderly man with a white beard, studio light",
    "a green locomotive in front of a brick station",
    "close-up of a dragonfly on a reed",
    "the skyline of a city at night",
)
_STEPS = 20
_SCALE = 7.5


def calibration_inputs(
    part: Part, prompts: PromptEncoder, denoiser: Part, loop: Callable[[Call], Denoiser]
) -> Iterator[tuple[Tensor, ...]]:
    """The inputs that `part` gets while its eager networks make an image of each of `PROMPTS`.

    Args:
        part: the denoiser itself, or the decoder.
        prompts: encodes.
        denoiser: the eager network.
        loop: the loop around a call of it.
    """
    seen: list[tuple[Tensor, ...]] = []

    def watched(*inputs: Tensor) -> Tensor:
        seen.append(tuple(tensor.clone() for tensor in inputs))
        answer: Tensor = denoiser.module(*inputs)
        return answer

    texts, places = prompts.table(PROMPTS)
    rows = [Row(seed, text, Guidance(_SCALE), "default", _STEPS) for seed, text in enumerate(places)]
    with torch.inference_mode():
        latents = loop(watched).denoise(rows, texts)
    if part.name == denoiser.name:
        yield from seen
        return
    example = part.inputs[0]
    for start in range(len(latents)):
        # Blocks of the decoder's shape, each beginning with another image.
        block = latents.roll(-start, 0).repeat(-(-len(example) // len(latents)), 1, 1, 1)[: len(example)]
        yield (block.to(example),)
