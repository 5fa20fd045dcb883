"""Sizes of the published ViTs by name. Without torch: what they do not fit is said before it is loaded."""

from importlib.util import find_spec
from typing import NamedTuple

from penstock.protocol.errors import ConfigError


class EncoderSizes(NamedTuple):
    """What `build_encoder` needs to know of a ViT."""

    hidden_size: int
    num_layers: int
    num_heads: int
    patch_size: int


VIT_SIZES = {
    "vit-s-16": EncoderSizes(384, 12, 6, 16),
    "vit-b-16": EncoderSizes(768, 12, 12, 16),
    "vit-l-16": EncoderSizes(1024, 24, 16, 16),
}
_TIMM_NAMES = {
    "vit_small_patch16_224": "vit-s-16",
    "vit_base_patch16_224": "vit-b-16",
    "vit_large_patch16_224": "vit-l-16",
}


def is_vit(name: str) -> bool:
    """Whether `encoder_sizes` knows the name; of others timm may make an encoder."""
    return name in VIT_SIZES or name in _TIMM_NAMES


def encoder_sizes(name: str) -> EncoderSizes:
    """The sizes of the ViT `name`, in our spelling or timm's. Raises ConfigError for another name."""
    if not is_vit(name):
        raise ConfigError(f"the encoder must be one of {', '.join((*VIT_SIZES, *_TIMM_NAMES))}, got {name}")
    return VIT_SIZES[_TIMM_NAMES.get(name, name)]


def check_name(name: str) -> None:
    """Raises ConfigError where `model.name` is neither a ViT that is known here, nor can be one of timm's."""
    if name and not is_vit(name) and find_spec("timm") is None:
        raise ConfigError(
            f"model.name must be one of {', '.join(VIT_SIZES)} where timm is not installed, got {name}; or run: "
            "pip install timm"
        )
