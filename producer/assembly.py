"""The networks of one pipeline, ready to be called, for every size at which images are generated."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from penstock.producer.backends.fp8 import Calibration
from penstock.producer.backends.part import Backend, Call, Part
from penstock.producer.calibration import calibration_inputs
from penstock.producer.denoising import Denoiser, example_inputs
from penstock.producer.networks import DecoderNetwork, DenoiserNetwork
from penstock.producer.schedules import Schedules
from penstock.producer.text import PromptEncoder
from penstock.protocol.errors import ModelError
from penstock.telemetry.flops import count_flops

_MAX_SIZES = 4
"""Sizes whose networks are kept, those used last."""


@dataclass(frozen=True, slots=True)
class Networks:
    """What is called over and over to make images of one size."""

    denoiser: Denoiser
    decoder: Call
    """Latents [decode_images, C, h, w] to pixels in about -1..1."""
    decoder_dtype: torch.dtype
    denoiser_flops: float
    """Of one call."""
    decoder_flops: float
    """Of one call."""


class Assembly:
    """Builds networks with a backend, once for each size.

    Args:
        pipeline: a diffusers pipeline of the Stable Diffusion family, on its device.
        autoencoder: what decodes.
        open_backend: how both are run, given what gives a part inputs to calibrate by.
        schedules: of the pipeline.
        prompts: encodes.
        slots: rows of every call of the denoiser.
        decode_images: images of every call of the decoder.
        device: where all this is.
        dtype: of the denoiser.
    """

    def __init__(
        self,
        pipeline: Any,
        autoencoder: Any,
        open_backend: Callable[[Calibration], Backend],
        schedules: Schedules,
        *,
        prompts: PromptEncoder,
        slots: int,
        decode_images: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._pipeline = pipeline
        self._autoencoder = autoencoder
        self._backend = open_backend(self._calibrate)
        self._schedules = schedules
        self._prompts = prompts
        self._slots = slots
        self._decode_images = decode_images
        self._device = device
        self._dtype = dtype
        self._building: tuple[Part, Callable[[Call], Denoiser]] | None = None
        """The denoiser of the size that is being built, and its loop."""
        self._built: OrderedDict[tuple[int, int], Networks] = OrderedDict()

    def networks(self, native_height: int, native_width: int) -> Networks:
        """The networks for images generated at a size in pixels; 0 is the model's own. Built where they are new.

        Raises ModelError where the model cannot generate at that size, or where the backend fails.
        """
        size = self._latent_size(native_height, native_width)
        if size not in self._built:
            self._built[size] = self._build(*size)
            while len(self._built) > _MAX_SIZES:
                self._built.popitem(last=False)
        self._built.move_to_end(size)
        return self._built[size]

    def _latent_size(self, native_height: int, native_width: int) -> tuple[int, int]:
        """(h, w) of the latents for images of a size; 0 is the model's own. Raises ModelError where there are none."""
        factor, own = self._pipeline.vae_scale_factor, self._pipeline.unet.config.sample_size
        if not native_height:
            return (own, own) if isinstance(own, int) else tuple(own)
        if native_height % factor or native_width % factor:
            raise ModelError(
                f"native_height and native_width must be multiples of {factor} for this model, "
                f"got {native_height} and {native_width}"
            )
        return native_height // factor, native_width // factor

    def _build(self, height: int, width: int) -> Networks:
        """The networks for latents of a size."""
        unet, empty = self._pipeline.unet, self._prompts.empty
        time_ids = self._time_ids(height, width, empty.pooled) if empty.pooled is not None else None
        shape = (unet.config.in_channels, height, width)
        guidance_width = unet.config.time_cond_proj_dim or 0
        denoiser = DenoiserNetwork(unet, takes_pooled=time_ids is not None).eval()
        decoder = DecoderNetwork(self._autoencoder).eval().to(self._device)
        decoder_dtype = next(decoder.parameters()).dtype
        inputs = example_inputs(self._slots, shape, empty, time_ids, guidance_width, self._dtype)
        latents = torch.randn((self._decode_images, *shape), dtype=decoder_dtype, device=self._device)
        denoiser_flops, decoder_flops = count_flops(denoiser, inputs), count_flops(decoder, (latents,))
        part = Part("denoiser", denoiser, inputs)
        loop = partial(
            Denoiser,
            schedules=self._schedules,
            slots=self._slots,
            latent_shape=shape,
            device=self._device,
            dtype=self._dtype,
            time_ids=time_ids,
            guidance_width=guidance_width,
        )
        self._building = (part, loop)
        return Networks(
            loop(self._backend.build(part)),
            self._backend.build(Part("decoder", decoder, (latents,))),
            decoder_dtype,
            denoiser_flops,
            decoder_flops,
        )

    def _calibrate(self, part: Part) -> Iterable[tuple[Tensor, ...]]:
        if self._building is None:
            raise ModelError("nothing is being built that could be calibrated")
        return calibration_inputs(part, self._prompts, *self._building)

    def _time_ids(self, height: int, width: int, pooled: Tensor) -> Tensor:
        """What XL is told of sizes and crops, for latents of a size: float [6]."""
        factor, second = self._pipeline.vae_scale_factor, self._pipeline.text_encoder_2
        size = (height * factor, width * factor)
        projection = pooled.shape[-1] if second is None else second.config.projection_dim
        made: Tensor = self._pipeline._get_add_time_ids(
            size, (0, 0), size, self._dtype, text_encoder_projection_dim=projection
        )
        return made[0].to(self._device)
