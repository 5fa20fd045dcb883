"""Makes groups with models of the Stable Diffusion family: 1.x, 2.x, XL, and their few-step variants.

The denoising loop is our own (denoising.py), over the pipeline's own networks; what the pipeline's call would do again
for every batch is done once. The autoencoder decodes in blocks of one shape, then pixels are resized and made uint8
where they are, and copied to the host while the next batch is begun.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from penstock.producer import model_folder
from penstock.producer.backends.opening import open_backend
from penstock.producer.backends.part import Call, Part
from penstock.producer.config import ProduceConfig
from penstock.producer.denoising import Denoiser, Row, example_inputs
from penstock.producer.engine import Made, Pending
from penstock.producer.flops import count_flops, matrix_flops_per_s
from penstock.producer.guidance import Guidance
from penstock.producer.loading import (
    describe,
    find_device,
    find_dtype,
    load_pipeline,
    load_tiny_autoencoder,
    refuse_not_finite,
    refuse_other_model,
)
from penstock.producer.networks import DecoderNetwork, DenoiserNetwork
from penstock.producer.pixels import HostCopies, Pixels, are_finite, to_uint8
from penstock.producer.schedules import Schedules
from penstock.producer.text import PromptEncoder
from penstock.producer.work import Work
from penstock.protocol.errors import ModelError
from penstock.protocol.tickets import Manifest, Recipe, Ticket

PIPELINES = frozenset({"StableDiffusionPipeline", "StableDiffusionXLPipeline", "LatentConsistencyModelPipeline"})
"""The pipelines whose loop this is."""
_LOOP = "stable-diffusion 1"
"""Changes whenever the same ticket would give other bits than before."""


@dataclass(frozen=True, slots=True)
class _Networks:
    """What is called over and over to make images of one size."""

    denoiser: Denoiser
    decoder: Call
    """Latents [decode_images, C, h, w] to pixels in about -1..1."""
    decoder_dtype: torch.dtype
    denoiser_flops: float
    """Of one call."""
    decoder_flops: float
    """Of one call."""


class StableDiffusionEngine:
    """The Stable Diffusion family.

    Args:
        config: device, dtype, backend, batch shape and where the weights lie.

    Raises:
        ModelError: the folder is missing or is no pipeline, or the device is not there.
    """

    def __init__(self, config: ProduceConfig) -> None:
        self._config = config
        self._folder = model_folder.find(config.model)
        self._device = find_device(config.device)
        self._dtype = find_dtype(config.dtype, self._device)
        self._tiny = model_folder.find_part(config.tiny_autoencoder) if config.tiny_autoencoder else None
        settings = {"engine": _LOOP, "decode_images": str(config.decode_images)}
        if self._tiny is not None:
            settings["autoencoder"] = f"tiny {model_folder.digest_part(self._tiny)[:16]}"
        self._manifest = describe(config, self._folder, self._dtype, self._device, settings)
        self._sizes: dict[tuple[int, int], _Networks] = {}
        self.work = Work(flops=0.0)

    @property
    def manifest(self) -> Manifest:
        """What makes this engine interchangeable with another."""
        return self._manifest

    def load(self) -> None:
        """Load the weights, build what the backend builds, and make one image. Raises ModelError."""
        self._backend = open_backend(self._config, self._device)
        self._pipeline = load_pipeline(self._folder, self._dtype, self._device)
        self._autoencoder = self._pipeline.vae
        if self._tiny is not None:
            self._autoencoder = load_tiny_autoencoder(self._tiny, self._dtype, self._device)
        elif self._dtype == torch.float16 and self._is_xl and self._autoencoder.config.force_upcast:
            # XL's own autoencoder overflows in float16.
            self._autoencoder.to(torch.float32)
        with torch.inference_mode():
            self._prompts = PromptEncoder(self._pipeline, self._device)
            self._schedules = Schedules(self._pipeline.scheduler, self._pipeline.unet.config.in_channels)
            self._copies = HostCopies(self._device)
            self._networks(0, 0)
            self.work.matrix_flops_per_s = matrix_flops_per_s(self._device, self._dtype)

    @property
    def _is_xl(self) -> bool:
        return model_folder.pipeline_class(self._folder) == "StableDiffusionXLPipeline"

    def company(self, ticket: Ticket) -> Hashable:
        """Whatever is generated at one size goes together; all else is each image's own."""
        return (ticket.recipe.native_height, ticket.recipe.native_width, ticket.recipe.model_digest)

    def generate(self, tickets: Sequence[Ticket]) -> Pending:
        """One group per ticket, uint8 [m, H, W, 3]."""
        first = tickets[0].recipe
        if (refusal := refuse_other_model(first.model_digest, self._manifest)) is not None:
            raise refusal
        check = self._schedules.check
        unfit = [check(ticket.recipe.scheduler, ticket.recipe.num_inference_steps) for ticket in tickets]
        recipes = [ticket.recipe for ticket, why in zip(tickets, unfit, strict=True) if why is None]
        with torch.inference_mode():
            waits = self._begin(recipes) if recipes else {}
        return lambda: _groups(tickets, unfit, {size: wait() for size, wait in waits.items()})

    def _begin(self, recipes: Sequence[Recipe]) -> dict[tuple[int, int], Callable[[], Pixels]]:
        """Begin to make the images; what to wait for, by the size that is kept."""
        networks = self._networks(recipes[0].native_height, recipes[0].native_width)
        texts, places = self._prompts.table([recipe.prompt for recipe in recipes])
        rows = [
            Row(seed, text, Guidance.of(recipe), recipe.scheduler, recipe.num_inference_steps)
            for recipe, text in zip(recipes, places, strict=True)
            for seed in recipe.image_seeds
        ]
        calls = networks.denoiser.num_calls
        latents = networks.denoiser.denoise(rows, texts)
        blocks = [
            self._decode(networks, latents[start : start + self._config.decode_images])
            for start in range(0, len(rows), self._config.decode_images)
        ]
        flops = (networks.denoiser.num_calls - calls) * networks.denoiser_flops + len(blocks) * networks.decoder_flops
        self.work.images += len(rows)
        self.work.flops = (self.work.flops or 0.0) + flops
        return self._copy([(recipe.height, recipe.width) for recipe in recipes for _ in recipe.image_seeds], blocks)

    def _decode(self, networks: _Networks, latents: Tensor) -> Tensor:
        """Pixels [n, 3, H, W] in about -1..1, of n latents; n is at most the size of a block."""
        padding = latents[-1:].expand(self._config.decode_images - len(latents), -1, -1, -1)
        pixels = networks.decoder(torch.cat([latents, padding]).to(networks.decoder_dtype))
        return pixels[: len(latents)].to(torch.float32, copy=True)

    def _copy(
        self, sizes: Sequence[tuple[int, int]], blocks: Sequence[Tensor]
    ) -> dict[tuple[int, int], Callable[[], Pixels]]:
        """Resize every image to its size and begin to copy; what to wait for, by size."""
        images: dict[tuple[int, int], list[Tensor]] = {size: [] for size in sizes}
        finite: dict[tuple[int, int], list[Tensor]] = {size: [] for size in sizes}
        start = 0
        for block in blocks:
            here = sizes[start : start + len(block)]
            start += len(block)
            is_finite, shades = are_finite(block), (block / 2 + 0.5).clamp(0, 1)
            for size in dict.fromkeys(here):
                # All of a block, as a rule: then nothing is copied to choose them.
                chosen = [number for number, other in enumerate(here) if other == size]
                part = slice(None) if len(chosen) == len(here) else chosen
                images[size].append(to_uint8(shades[part], *size))
                finite[size].append(is_finite[part])
        return {size: self._copies.begin(images[size], finite[size]) for size in images}

    def _networks(self, native_height: int, native_width: int) -> _Networks:
        """The networks for images generated at a size; 0 is the model's own. Builds them where they are new."""
        if (native_height, native_width) not in self._sizes:
            self._sizes[native_height, native_width] = self._build(native_height, native_width)
        return self._sizes[native_height, native_width]

    def _build(self, native_height: int, native_width: int) -> _Networks:
        unet, factor = self._pipeline.unet, self._pipeline.vae_scale_factor
        sample = unet.config.sample_size
        own_height, own_width = (sample, sample) if isinstance(sample, int) else sample
        height, width = native_height // factor or own_height, native_width // factor or own_width
        text, _ = self._prompts.table([])
        time_ids = self._time_ids(height * factor, width * factor, text.pooled) if text.pooled is not None else None
        denoiser = DenoiserNetwork(unet, takes_pooled=time_ids is not None).eval()
        decoder = DecoderNetwork(self._autoencoder).eval().to(self._device)
        shape = (unet.config.in_channels, height, width)
        guidance_width = unet.config.time_cond_proj_dim or 0
        decoder_dtype = next(decoder.parameters()).dtype
        latents = torch.randn((self._config.decode_images, *shape), dtype=decoder_dtype, device=self._device)
        decoder_part = Part("decoder", decoder, (latents,))
        slots = self._config.batch_images
        inputs = example_inputs(slots, shape, text, time_ids, guidance_width, self._dtype)
        denoiser_part = Part("denoiser", denoiser, inputs)
        return _Networks(
            Denoiser(
                self._backend.build(denoiser_part),
                self._schedules,
                slots=slots,
                latent_shape=shape,
                device=self._device,
                dtype=self._dtype,
                time_ids=time_ids,
                guidance_width=guidance_width,
            ),
            self._backend.build(decoder_part),
            decoder_dtype,
            count_flops(denoiser, inputs),
            count_flops(decoder, (latents,)),
        )

    def _time_ids(self, height: int, width: int, pooled: Tensor) -> Tensor:
        """What XL is told of sizes and crops: float [6]."""
        second = self._pipeline.text_encoder_2
        width_of_pooled = pooled.shape[-1] if second is None else second.config.projection_dim
        made: Tensor = self._pipeline._get_add_time_ids(
            (height, width), (0, 0), (height, width), self._dtype, text_encoder_projection_dim=width_of_pooled
        )
        return made[0].to(self._device)


def _groups(
    tickets: Sequence[Ticket], unfit: Sequence[ModelError | None], pixels: dict[tuple[int, int], Pixels]
) -> list[Made]:
    """What has become of each ticket."""
    taken = dict.fromkeys(pixels, 0)
    made: list[Made] = []
    for ticket, why in zip(tickets, unfit, strict=True):
        if why is not None:
            made.append(why)
            continue
        size = (ticket.recipe.height, ticket.recipe.width)
        here = slice(taken[size], taken[size] + ticket.recipe.num_images)
        taken[size] = here.stop
        is_finite = bool(pixels[size].is_finite[here].all())
        made.append(pixels[size].images[here] if is_finite else refuse_not_finite())
    return made
