"""What a rank of these tests asks for, and what must come: every group is a pure function of its ticket.

Both ends know the function, so that a rank can tell each group bit for bit, whoever made it and whatever happened on
the way. Nothing here needs torch.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from penstock.protocol.tickets import Manifest, Recipe, Ticket, group_seed

MODEL_DIGEST = "1196"
"""What the light engine calls its weights."""
REFUSED = "refuse"
"""A prompt with this word is one that the light engine raises ModelError for."""
DEADLY = "kill"
"""A prompt with this word kills the light producer that begins it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The groups of a run: one recipe for each global index."""

    num_images: int = 4
    side: int = 16
    """Height and width in pixels."""
    salt: int = 0
    """Another salt makes other pixels at the same index, so that a group of an earlier life would be seen."""
    poison: dict[str, str] = field(default_factory=dict)
    """A word that goes into the prompt, by index (as text, for JSON)."""
    model_digest: str = MODEL_DIGEST
    num_inference_steps: int = 1
    guidance_scale: float = 1.0

    @property
    def group_bytes(self) -> int:
        """Bytes of one group."""
        return self.num_images * self.side * self.side * 3

    def ticket(self, index: int, rank: int, stand_in: int = 0) -> Ticket:
        """The ticket of a global index, or of a stand-in for it: no stand-in is poisonous."""
        word = self.poison.get(str(index), "plain") if stand_in == 0 else f"stand-in {stand_in}"
        prompt = f"a picture of the number {index}, {word}"
        recipe = Recipe(
            prompt=prompt,
            seed=group_seed(self.salt, stand_in, index),
            num_images=self.num_images,
            guidance_scales=(self.guidance_scale,),
            num_inference_steps=self.num_inference_steps,
            scheduler="default",
            height=self.side,
            width=self.side,
            model_digest=self.model_digest,
        )
        return Ticket(index=index, rank=rank, need_by_step=index, stand_in=stand_in, recipe=recipe)


def pixels(recipe: Recipe) -> NDArray[np.uint8]:
    """The group of a recipe, uint8 [m, H, W, 3]: one Philox generator for each image, as an engine has."""
    num_images, *image_shape = recipe.shape
    nbytes = recipe.nbytes // num_images
    made = [np.random.Generator(np.random.Philox(key=seed)).bytes(nbytes) for seed in recipe.image_seeds]
    return np.frombuffer(b"".join(made), dtype=np.uint8).reshape(num_images, *image_shape)


def light_manifest(batch_images: int) -> Manifest:
    """What the light engine says of itself."""
    return Manifest(
        model="light",
        model_digest=MODEL_DIGEST,
        scheduler="none",
        dtype="uint8",
        backend="numpy",
        device="cpu",
        batch_images=batch_images,
        versions={"numpy": np.__version__},
    )
