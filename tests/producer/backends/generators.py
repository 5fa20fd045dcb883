"""The networks of Stable Diffusion 1.5 as its configuration states them, on the meta device: shapes without weights."""

from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from torch import Tensor, nn

from penstock.producer.backends.part import Part


class Denoise(nn.Module):
    """The signature of a denoiser."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, sample: Tensor, timestep: Tensor, text_states: Tensor) -> Tensor:
        return self.unet(sample, timestep, text_states, return_dict=False)[0]


class Decode(nn.Module):
    """The signature of a decoder."""

    def __init__(self, autoencoder: Any) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(latents, return_dict=False)[0]


def denoiser(batch: int = 2, layers: int = 2) -> Part:
    """860 million parameters at 512 x 512 in float16; fewer `layers` a block export faster."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(320, 640, 1280, 1280),
            layers_per_block=layers,
            cross_attention_dim=768,
            attention_head_dim=8,
        )
        inputs = (torch.zeros(batch, 4, 64, 64).half(), torch.zeros(batch), torch.zeros(batch, 77, 768).half())
    return Part("denoiser", Denoise(unet.half().eval().requires_grad_(False)), inputs)


def kl_decoder() -> Part:
    """The KL autoencoder's."""
    with torch.device("meta"):
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            sample_size=512,
        )
    return _decoder(vae)


def tiny_decoder() -> Part:
    """TAESD's."""
    with torch.device("meta"):
        tiny = AutoencoderTiny()
    return _decoder(tiny)


def _decoder(autoencoder: Any) -> Part:
    latents = torch.zeros(2, 4, 64, 64, dtype=torch.float16, device="meta")
    return Part("decoder", Decode(autoencoder.half().eval().requires_grad_(False)), (latents,))
