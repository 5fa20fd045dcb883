"""Encoders by name: the published ViTs in `transformers`' own classes, and whatever else timm has where timm is there.

ViT-S, B and L of StableRep's code are timm's `vit_small_patch16_224` and its larger kin. They compute what
`build_encoder`'s ViT does, but start elsewhere (timm, models/vision_transformer.py: `init_weights_vit_timm`):

| | transformers | timm |
| --- | --- | --- |
| linear weights | normal, .02 | the same |
| patch embedding | normal, .02; bias 0 | nn.Conv2d's own |
| CLS token | normal, .02 | normal, 1e-6 |
| positions | normal, .02 | the same |
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, TimmWrapperConfig, TimmWrapperModel, ViTModel

from penstock.protocol.errors import ConfigError


class EncoderSizes(NamedTuple):
    """What `build_encoder` needs to know of a ViT."""

    hidden_size: int
    num_layers: int
    num_heads: int
    patch_size: int


_SIZES = {
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
    """Whether `encoder_sizes` knows the name; of others `build_timm_encoder` may make an encoder."""
    return name in _SIZES or name in _TIMM_NAMES


def encoder_sizes(name: str) -> EncoderSizes:
    """The sizes of the ViT `name`, in our spelling or timm's. Raises ConfigError for another name."""
    if not is_vit(name):
        raise ConfigError(f"the encoder must be one of {', '.join((*_SIZES, *_TIMM_NAMES))}, got {name}")
    return _SIZES[_TIMM_NAMES.get(name, name)]


@torch.no_grad()
def start_as_timm(encoder: ViTModel) -> None:
    """Draw the initial weights of a ViT anew, as timm does."""
    for module in encoder.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            module.reset_parameters()
    nn.init.trunc_normal_(encoder.embeddings.position_embeddings, std=0.02)
    nn.init.normal_(encoder.embeddings.cls_token, std=1e-6)


def build_timm_encoder(
    name: str, image_size: int, *, drop_path: float = 0.0, gradient_checkpointing: bool = False
) -> TimmWrapperModel:
    """The timm model `name` with random weights and without classifier, as `transformers` wraps it.

    Its feature is what its classifier would see, `image_feature`. `AutoModel` loads its export where timm is installed.

    Args:
        name: as `timm.list_models()` shows it.
        image_size: side of its input; models that take any size ignore it.
        drop_path: rate of stochastic depth in the last block.
        gradient_checkpointing: whether to `checkpoint_blocks`.

    Raises:
        ConfigError: timm cannot be imported, has no such model, or cannot make it so.
    """
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # a torchvision that does not fit torch raises RuntimeError
        known = ", ".join(_SIZES)
        raise ConfigError(
            f"the encoder {name} needs timm, which cannot be imported ({_first_line(error)}); install it, or choose"
            f" one of {known}"
        ) from error
    if not timm.is_model(name):
        raise ConfigError(f"the encoder {name} is not among the models of timm {timm.__version__}")
    arguments: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    published = timm.get_pretrained_cfg(name)
    if published is not None and published.fixed_input_size:
        arguments["img_size"] = image_size
    try:
        inner = timm.create_model(name, num_classes=0, **arguments)
        config = TimmWrapperConfig(architecture=name, model_args=arguments, num_labels=0)
        # Others ask the configuration for the features' width.
        config.hidden_size = inner.head_hidden_size
        encoder = TimmWrapperModel(config)
        if gradient_checkpointing:
            checkpoint_blocks(encoder)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise ConfigError(
            f"timm cannot make the encoder {name} for {image_size} x {image_size} pixels: {_first_line(error)}"
        ) from error
    # The wrapper has drawn every linear and convolutional weight anew, by a rule that is not the model's.
    encoder.timm_model.load_state_dict(inner.state_dict())
    return encoder


def image_feature(encoder: PreTrainedModel, pixel_values: Tensor) -> Tensor:
    """The feature of each image: `[N, 3, S, S]` to `[N, hidden_size]`.

    Of a ViT it is the CLS token after the last LayerNorm, of a timm model what its own pooling makes.
    """
    output = encoder(pixel_values=pixel_values)
    feature: Tensor = output.pooler_output if has_own_pooling(encoder) else output.last_hidden_state[:, 0]
    return feature


def has_own_pooling(encoder: PreTrainedModel) -> bool:
    """Whether the encoder's `pooler_output` is its feature: a timm model's is."""
    return isinstance(encoder, TimmWrapperModel)


def checkpoint_blocks(encoder: PreTrainedModel) -> None:
    """Keep only what enters a block for the backward pass, and compute the rest again: less memory, a third more time.

    Raises ValueError for an encoder that cannot do that, as some of timm's.
    """
    # transformers has renamed it in version 5, and the old name will go with version 6.
    name = "activation" if hasattr(encoder, "activation_checkpointing_enable") else "gradient"
    getattr(encoder, f"{name}_checkpointing_enable")({"use_reentrant": False})


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
