"""Makes groups with models of the Stable Diffusion family: 1.x, 2.x, XL, and their few-step variants.

The denoising loop is our own (denoising.py), over the pipeline's own networks; what the pipeline's call would do again
for every batch is done once. The autoencoder decodes in blocks of one shape, then pixels are resized and made uint8
where they are, and copied to the host while the next batch is begun.
"""

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from penstock.producer import model_folder
from penstock.producer.assembly import Assembly, Networks
from penstock.producer.backends.opening import backend_settings, open_backend
from penstock.producer.config import ProduceConfig
from penstock.producer.denoising import Row
from penstock.producer.device_stages import DeviceStages
from penstock.producer.diversity import open_features
from penstock.producer.engine import Made, Pending
from penstock.producer.guidance import Guidance
from penstock.producer.loading import (
    describe,
    find_device,
    find_dtype,
    load_pipeline,
    load_tiny_autoencoder,
    refuse_other_model,
)
from penstock.producer.outlet import Outlet
from penstock.producer.schedules import Schedules
from penstock.producer.text import PromptEncoder
from penstock.producer.work import Work
from penstock.protocol.tickets import Manifest, Recipe, Ticket
from penstock.telemetry.flops import matrix_flops_per_s
from penstock.telemetry.recorder import Recorder

_LOOP = "stable-diffusion 1"
"""Changes whenever the same ticket would give other bits than before."""


class StableDiffusionEngine:
    """The Stable Diffusion family.

    Args:
        config: device, dtype, backend, batch shape and where the weights lie.
        recorder: takes note of the stages `text`, `denoise` and `decode`; without one the engine has its own.

    Raises:
        ModelError: the folder is missing or is no pipeline, or the device is not there.
    """

    def __init__(self, config: ProduceConfig, recorder: Recorder | None = None) -> None:
        self._config = config
        self._recorder = recorder or Recorder()
        self._folder = model_folder.find(config.model)
        self._device = find_device(config.device)
        self._dtype = find_dtype(config.dtype, self._device)
        self._tiny = model_folder.find_part(config.tiny_autoencoder) if config.tiny_autoencoder else None
        settings = {"engine": _LOOP, "decode_images": str(config.decode_images)} | backend_settings(config)
        if self._tiny is not None:
            settings["autoencoder"] = f"tiny {model_folder.digest_part(self._tiny)[:16]}"
        self._manifest = describe(config, self._folder, self._dtype, self._device, settings)
        self.work = Work(flops=0.0)

    @property
    def manifest(self) -> Manifest:
        """What makes this engine interchangeable with another."""
        return self._manifest

    def load(self) -> None:
        """Load the weights and build what the backend builds. Raises ModelError."""
        pipeline = load_pipeline(self._folder, self._dtype, self._device)
        autoencoder = pipeline.vae
        if self._tiny is not None:
            autoencoder = load_tiny_autoencoder(self._tiny, self._dtype, self._device)
        elif self._dtype == torch.float16 and self._is_xl and autoencoder.config.force_upcast:
            # XL's own autoencoder overflows in float16.
            autoencoder.to(torch.float32)
        self._pipeline = pipeline
        self._schedules = Schedules(pipeline.scheduler, pipeline.unet.config.in_channels)
        self._outlet = Outlet(self._device, open_features(self._config.diversity_encoder, self._device), self.work)
        with torch.inference_mode():
            self._prompts = PromptEncoder(pipeline, self._device)
            self._assembly = Assembly(
                pipeline,
                autoencoder,
                lambda calibration: open_backend(self._config, self._device, calibration),
                self._schedules,
                prompts=self._prompts,
                slots=self._config.batch_images,
                decode_images=self._config.decode_images,
                device=self._device,
                dtype=self._dtype,
            )
            self._assembly.networks(0, 0)
            self.work.matrix_flops_per_s = matrix_flops_per_s(self._device, self._dtype)

    def prepare(self, native_height: int, native_width: int) -> None:
        """Build what generates at this size in pixels, which is else done when it is first asked for."""
        with torch.inference_mode():
            self._assembly.networks(native_height, native_width)

    @property
    def _is_xl(self) -> bool:
        return model_folder.pipeline_class(self._folder) == "StableDiffusionXLPipeline"

    def company(self, ticket: Ticket) -> Hashable:
        """What has the same sizes goes together; all else is each image's own."""
        recipe = ticket.recipe
        return (recipe.native_height, recipe.native_width, recipe.height, recipe.width, recipe.model_digest)

    def generate(self, tickets: Sequence[Ticket]) -> Pending:
        """One group per ticket, uint8 [m, H, W, 3]."""
        first = tickets[0].recipe
        if (refusal := refuse_other_model(first.model_digest, self._manifest)) is not None:
            raise refusal
        check = self._schedules.check
        unfit = [check(ticket.recipe.scheduler, ticket.recipe.num_inference_steps) for ticket in tickets]
        recipes = [ticket.recipe for ticket, why in zip(tickets, unfit, strict=True) if why is None]
        if not recipes:
            return lambda: [why for why in unfit if why is not None]
        stages = DeviceStages(self._recorder, self._device)
        with torch.inference_mode():
            pending = self._outlet.begin(recipes, *self._blocks(recipes, stages))

        def groups() -> list[Made]:
            made = iter(pending())
            stages.waited()
            return [next(made) if why is None else why for why in unfit]

        return groups

    def _blocks(self, recipes: Sequence[Recipe], stages: DeviceStages) -> tuple[list[Tensor], float]:
        """The images of all groups, one after another, in blocks [n, 3, h, w], black 0, white 1; and their FLOP."""
        networks = self._assembly.networks(recipes[0].native_height, recipes[0].native_width)
        texts, places = self._prompts.table([recipe.prompt for recipe in recipes])
        rows = [
            Row(seed, text, guidance, recipe.scheduler, recipe.num_inference_steps)
            for recipe, text in zip(recipes, places, strict=True)
            for seed, guidance in zip(recipe.image_seeds, Guidance.of(recipe), strict=True)
        ]
        stages.done("text")
        calls = networks.denoiser.num_calls
        latents = networks.denoiser.denoise(rows, texts)
        stages.done("denoise")
        blocks = [self._decode(networks, block) for block in latents.split(self._config.decode_images)]
        stages.done("decode")
        flops = (networks.denoiser.num_calls - calls) * networks.denoiser_flops + len(blocks) * networks.decoder_flops
        return blocks, flops

    def _decode(self, networks: Networks, latents: Tensor) -> Tensor:
        """Images float32 [n, 3, H, W], black 0, white 1, of n latents; n is at most the size of a block."""
        padding = latents[-1:].expand(self._config.decode_images - len(latents), -1, -1, -1)
        pixels = networks.decoder(torch.cat([latents, padding]).to(networks.decoder_dtype))
        return pixels[: len(latents)].float() / 2 + 0.5
