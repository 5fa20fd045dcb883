"""Folders in the shapes of well-known models, with random weights: they generate noise, at the true cost.

The configurations are those that the models' authors published on the hub. A test or a rehearsal takes `small` ones of
the same classes.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from penstock.producer.tiny.tokenizer import make_tokenizer

KINDS = ("sd15", "sd21-turbo", "sdxl-turbo")

_UNETS: dict[str, dict[str, Any]] = {
    "sd15": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sd21-turbo": {
        "sample_size": 64,
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
    },
    "sdxl-turbo": {
        "sample_size": 64,
        "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20],
        "use_linear_projection": True,
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": [1, 2, 10],
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
_CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
_CLIP_H = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16}
_CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
_CLIP_SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
_TEXTS = {"sd15": [_CLIP_L], "sd21-turbo": [_CLIP_H], "sdxl-turbo": [_CLIP_L, _CLIP_G]}


def make_folder(kind: str, folder: Path, device: torch.device, *, small: bool = False) -> Path:
    """A pipeline of `kind` with random weights, float16 on a GPU, in `folder`; weights are drawn on the device."""
    torch.manual_seed(0)
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    unet_config, text_configs = dict(_UNETS[kind]), _TEXTS[kind]
    tokenizer = make_tokenizer(["a", "red", "fox"], folder / "words", max_length=77)
    if small:
        text_configs = [
            text | {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1} for text in text_configs
        ]
        text_configs = [_CLIP_SMALL] * len(text_configs)
        width = 16 * len(text_configs)
        blocks = [8] * len(unet_config.get("block_out_channels", [0] * 4))
        unet_config |= {"block_out_channels": blocks, "cross_attention_dim": width, "norm_num_groups": 4}
        unet_config |= {"attention_head_dim": 4, "sample_size": 16, "layers_per_block": 1}
        if kind == "sdxl-turbo":
            unet_config |= {"transformer_layers_per_block": 1, "addition_time_embed_dim": 8}
            unet_config |= {"projection_class_embeddings_input_dim": 6 * 8 + 16}
    channels = [8, 8, 8, 8] if small else [128, 256, 512, 512]
    with device:
        unet = UNet2DConditionModel(**unet_config)
        vae = AutoencoderKL(
            block_out_channels=channels,
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            layers_per_block=2,
            norm_num_groups=4 if small else 32,
            sample_size=512,
            force_upcast=False,
        )
        texts = [
            (CLIPTextModel if number == 0 else CLIPTextModelWithProjection)(_text_config(tokenizer, text))
            for number, text in enumerate(text_configs)
        ]
    parts: dict[str, Any] = {"unet": unet, "vae": vae, "text_encoder": texts[0], "tokenizer": tokenizer}
    if kind == "sdxl-turbo":
        scheduler = EulerDiscreteScheduler(beta_schedule="scaled_linear", timestep_spacing="trailing")
        pipeline: Any = StableDiffusionXLPipeline(
            **parts, text_encoder_2=texts[1], tokenizer_2=tokenizer, scheduler=scheduler
        )
    else:
        is_turbo = kind == "sd21-turbo"
        scheduler = EulerDiscreteScheduler if is_turbo else PNDMScheduler
        options = {"timestep_spacing": "trailing"} if is_turbo else {"skip_prk_steps": True, "steps_offset": 1}
        pipeline = StableDiffusionPipeline(
            **parts,
            scheduler=scheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, **options),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.to(dtype).save_pretrained(folder / kind)
    return folder / kind


def make_tiny_autoencoder(folder: Path, device: torch.device) -> Path:
    """TAESD's shape, random weights."""
    with device:
        autoencoder = AutoencoderTiny()
    autoencoder.save_pretrained(folder / "taesd")
    return folder / "taesd"


def _text_config(tokenizer: Any, sizes: dict[str, int]) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=49408,
        max_position_embeddings=77,
        projection_dim=sizes["hidden_size"],
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **sizes,
    )
