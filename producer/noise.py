"""Groups of noise: what is sent where the pixels do not matter, cheap, and a pure function of the ticket."""

import numpy as np

from penstock.producer.engine import Chosen, Images, Made
from penstock.protocol.messages import Choice
from penstock.protocol.tickets import Recipe, Ticket

_NOISE = np.random.Generator(np.random.PCG64(0)).integers(1, 256, 1 << 16, dtype=np.uint8)
"""uint8 [64 Ki], never 0: the one block that all images are cut from."""


def noise(recipe: Recipe) -> Images:
    """uint8 [m, H, W, 3], never black: every image the same noise, begun at a place that its seed decides."""
    images = np.empty(recipe.shape, np.uint8)
    for image, seed in zip(images.reshape(recipe.num_images, -1), recipe.image_seeds, strict=True):
        start = seed % len(_NOISE)
        first = min(len(image), len(_NOISE) - start)
        image[:first] = _NOISE[start : start + first]
        rest = image[first:]
        whole = len(rest) // len(_NOISE) * len(_NOISE)
        rest[:whole].reshape(-1, len(_NOISE))[:] = _NOISE
        rest[whole:] = _NOISE[: len(rest) - whole]
    return images


def answer_probe(ticket: Ticket) -> Made:
    """What a probe gets: noise; where it asks for a filter, as if its first candidates had been chosen."""
    recipe = ticket.recipe
    if not recipe.is_filtered:
        return noise(recipe)
    return Chosen(noise(recipe), Choice(tuple(range(recipe.num_images)), recipe.num_candidates))
