"""A recipe, a manifest and tickets for tests that do not care which."""

import zlib
from dataclasses import replace
from typing import Any

from penstock.protocol.tickets import Manifest, Recipe, Ticket

RECIPE = Recipe(
    prompt="a red fox",
    seed=7,
    num_images=2,
    guidance_scales=(2.0,),
    guidance_rescale=0.5,
    guidance_start=0.25,
    guidance_stop=0.75,
    num_inference_steps=8,
    scheduler="default",
    native_height=16,
    native_width=24,
    height=4,
    width=5,
    model_digest="d1",
)
NBYTES = 2 * 4 * 5 * 3
PIXELS = bytes(range(NBYTES))
CRC32 = zlib.crc32(PIXELS)
MANIFEST = Manifest(
    model="tiny",
    model_digest="d1",
    scheduler="DDIMScheduler",
    dtype="float32",
    backend="eager",
    device="cpu",
    batch_images=8,
    settings={"vae": "full"},
    versions={"torch": "2.11"},
)


def a_ticket(index: int, *, rank: int = 0, attempt: int = 0, need_by_step: int = 0, **recipe: Any) -> Ticket:
    """The ticket at `index`; other arguments change its recipe."""
    return Ticket(index=index, rank=rank, attempt=attempt, need_by_step=need_by_step, recipe=replace(RECIPE, **recipe))
