"""The two networks that are called over and over, as modules of positional tensors: what a backend can compile.

A diffusers model takes keywords and dictionaries and answers in a class of its own; compilers and exporters want
tensors in and a tensor out.
"""

from typing import Any

import torch
from torch import Tensor, nn


class DenoiserNetwork(nn.Module):
    """A Stable Diffusion UNet.

    Args:
        unet: a diffusers `UNet2DConditionModel`.
        takes_pooled: whether it is told a pooled text and sizes, as SDXL is.
    """

    def __init__(self, unet: Any, *, takes_pooled: bool) -> None:
        super().__init__()
        self.unet = unet
        self._takes_pooled = takes_pooled

    def forward(self, sample: Tensor, timestep: Tensor, text_states: Tensor, *added: Tensor) -> Tensor:
        """A prediction [B, C, h, w].

        Args:
            sample: [B, C, h, w].
            timestep: float32 [B].
            text_states: [B, L, D].
            added: pooled texts [B, E] and sizes [B, 6] where it takes them, then an embedding of the guidance
                [B, W] where it is distilled.
        """
        conditions = None
        if self._takes_pooled:
            conditions, added = {"text_embeds": added[0], "time_ids": added[1]}, added[2:]
        answer: Tensor = self.unet(
            sample,
            timestep,
            encoder_hidden_states=text_states,
            timestep_cond=added[0] if added else None,
            added_cond_kwargs=conditions,
            return_dict=False,
        )[0]
        return answer


class DecoderNetwork(nn.Module):
    """The half of an autoencoder that makes pixels.

    Args:
        autoencoder: a diffusers autoencoder.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, autoencoder: Any) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        config = autoencoder.config
        self._factor = float(config.scaling_factor)
        mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        self._is_whitened = mean is not None and std is not None
        if self._is_whitened:
            self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
            self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, latents: Tensor) -> Tensor:
        """Pixels [D, 3, H, W] in about -1..1, of latents [D, C, h, w]."""
        latents = latents / self._factor
        if self._is_whitened:
            latents = latents * self.std.to(latents.dtype) + self.mean.to(latents.dtype)
        answer: Tensor = self.autoencoder.decode(latents, return_dict=False)[0]
        return answer
