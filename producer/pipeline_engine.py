"""Makes groups with any diffusers text-to-image pipeline, called as its authors meant it to be called.

For whatever is not of the Stable Diffusion family (SD3, FLUX, PixArt, ...), whose own denoising loops Penstock does not
have. Every batch has the same shape and every image its own generator, seeded from its ticket, so the same ticket gives
the same bits alone or among others, in any slot. Where a pipeline's texts are as long as the longest of their batch, a
batch has one prompt.
"""

import inspect
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from penstock.producer import model_folder
from penstock.producer.config import ProduceConfig
from penstock.producer.diversity import open_features
from penstock.producer.engine import Pending
from penstock.producer.loading import (
    describe,
    find_device,
    find_dtype,
    load_pipeline,
    refuse_other_model,
)
from penstock.producer.outlet import Outlet
from penstock.producer.schedules import scheduler_class
from penstock.producer.work import Work
from penstock.protocol.batching import same_recipe
from penstock.protocol.errors import ModelError
from penstock.protocol.tickets import Manifest, Recipe, Ticket

_PAD_TEXTS = model_folder.STABLE_DIFFUSION | {
    *("StableDiffusion3Pipeline", "FluxPipeline", "PixArtAlphaPipeline", "PixArtSigmaPipeline")
}
"""Pipelines that pad every text to one length. Others pad to the longest of the batch, and so a neighbour's prompt
would change the shapes that an image is computed in."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One image to make."""

    prompt: str
    seed: int
    scale: float


class PipelineEngine:
    """Calls a diffusers pipeline batch by batch.

    Args:
        config: device, dtype, batch shape and where the weights lie.

    Raises:
        ModelError: the folder is missing or is no pipeline, the device is not there, or the backend is for others.
    """

    def __init__(self, config: ProduceConfig) -> None:
        self._folder = model_folder.find(config.model)
        if config.backend != "eager":
            kind = model_folder.pipeline_class(self._folder)
            raise ModelError(f"backend {config.backend} is for Stable Diffusion; {kind} runs with --backend eager")
        if config.tiny_autoencoder:
            raise ModelError("tiny_autoencoder is for Stable Diffusion; leave it out for this model")
        self._device = find_device(config.device)
        self._dtype = find_dtype(config.dtype, self._device)
        self._batch_images = config.batch_images
        self._pads_texts = model_folder.pipeline_class(self._folder) in _PAD_TEXTS
        self._diversity_encoder = config.diversity_encoder
        self._pipeline: Any = None
        self._schedulers: dict[str, Any] = {}
        self.work = Work()
        self._manifest = describe(config, self._folder, self._dtype, self._device, {"engine": "pipeline"})

    @property
    def manifest(self) -> Manifest:
        """What makes this engine interchangeable with another."""
        return self._manifest

    def load(self) -> None:
        """Load the weights onto the device. Raises ModelError where the folder does not load."""
        self._pipeline = load_pipeline(self._folder, self._dtype, self._device)
        self._schedulers["default"] = self._pipeline.scheduler
        self._outlet = Outlet(self._device, open_features(self._diversity_encoder, self._device), self.work)

    def company(self, ticket: Ticket) -> Hashable:
        """A call has one guidance, one scheduler, one size; and one prompt, where others could change its length."""
        alone = None if self._pads_texts else ticket.recipe.prompt
        return same_recipe(ticket), alone

    def generate(self, tickets: Sequence[Ticket]) -> Pending:
        """One group per ticket, uint8 [m, H, W, 3].

        Raises:
            ModelError: the recipe asks for a scheduler, a model or a guidance that this pipeline does not have.
        """
        recipe = tickets[0].recipe
        if (refusal := refuse_other_model(recipe.model_digest, self._manifest)) is not None:
            raise refusal
        rows = [
            _Row(ticket.recipe.prompt, seed, scale)
            for ticket in tickets
            for seed, scale in zip(ticket.recipe.image_seeds, ticket.recipe.image_scales, strict=True)
        ]
        with torch.inference_mode():
            return self._outlet.begin([ticket.recipe for ticket in tickets], self._blocks(rows, recipe))

    def _blocks(self, rows: Sequence[_Row], recipe: Recipe) -> list[Tensor]:
        """The images of all rows in their order, in blocks [n, 3, h, w]. A call has one scale, so each has its own."""
        step = self._batch_images
        places = sorted(range(len(rows)), key=lambda place: rows[place].scale)
        made: list[Tensor] = []
        for _, same in groupby(places, key=lambda place: rows[place].scale):
            mine = [rows[place] for place in same]
            made += [self._batch(mine[start : start + step], recipe) for start in range(0, len(mine), step)]
        if places == list(range(len(rows))):
            return made
        images = torch.cat(made)
        ordered = torch.empty_like(images)
        ordered[torch.tensor(places, device=images.device)] = images
        return list(ordered.split(step))

    def _batch(self, rows: Sequence[_Row], recipe: Recipe) -> Tensor:
        """Images [len(rows), 3, h, w] in 0..1 of rows of one scale; padded to the fixed shape by repeating the last."""
        padded = [*rows, *[rows[-1]] * (self._batch_images - len(rows))]
        options = self._options(recipe, rows[0].scale)
        try:
            self._pipeline.scheduler = self._scheduler(recipe.scheduler)
            images: Tensor = self._pipeline(
                prompt=[row.prompt for row in padded],
                generator=[torch.Generator("cpu").manual_seed(row.seed) for row in padded],
                num_inference_steps=recipe.num_inference_steps,
                output_type="pt",
                **options,
            ).images
        except (AttributeError, IndexError, KeyError, NotImplementedError, TypeError, ValueError) as error:
            # Not RuntimeError, which a device without memory or a broken one raises: that is no ticket's fault.
            raise ModelError(
                f"scheduler {recipe.scheduler!r} with {recipe.num_inference_steps} steps does not suit this model: "
                f"{error!r:.200}"
            ) from error
        return images[: len(rows)]

    def _options(self, recipe: Recipe, scale: float) -> dict[str, float]:
        """What of a recipe not every pipeline takes. Raises ModelError for what this one does not."""
        if (recipe.guidance_start, recipe.guidance_stop) != (0.0, 1.0):
            raise ModelError("this pipeline cannot limit guidance to an interval; leave guidance_start and _stop out")
        options: dict[str, float] = {"guidance_scale": scale}
        if recipe.guidance_rescale:
            options["guidance_rescale"] = recipe.guidance_rescale
        if recipe.native_height:
            options |= {"height": recipe.native_height, "width": recipe.native_width}
        taken = inspect.signature(type(self._pipeline).__call__).parameters
        if unknown := sorted(options.keys() - taken.keys()):
            raise ModelError(f"{type(self._pipeline).__name__} takes no {' or '.join(unknown)}; leave it out")
        return options

    def _scheduler(self, name: str) -> Any:
        if name not in self._schedulers:
            default = self._schedulers["default"]
            self._schedulers[name] = scheduler_class(name, default).from_config(default.config)
        return self._schedulers[name]
