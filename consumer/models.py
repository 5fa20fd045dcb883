"""The encoder: a ViT from `transformers`. `export.py` writes it as an ordinary Hugging Face folder."""

from transformers import ViTConfig, ViTModel

from penstock.consumer.drop_path import add_drop_path
from penstock.consumer.encoders import checkpoint_blocks


def build_encoder(
    image_size: int,
    patch_size: int,
    hidden_size: int,
    num_layers: int,
    num_heads: int,
    *,
    initializer_range: float = 0.02,
    attention: str = "sdpa",
    drop_path: float = 0.0,
    gradient_checkpointing: bool = False,
) -> ViTModel:
    """A ViT with random weights, MLPs four times as wide as `hidden_size`, and no pooling layer.

    Its feature is the CLS token after the last LayerNorm, `last_hidden_state[:, 0]`.

    Args:
        initializer_range: standard deviation of the initial weights. The usual 0.02 suits widths of 384 and more; a
            narrow encoder passes on too little of its input with it and idles long at the loss of a constant output.
            About `hidden_size ** -0.5` keeps the signal's size at any width.
        attention: `sdpa` or `eager`; the same function. A CPU trains short sequences in bfloat16 much faster with
        `eager`.
        drop_path: rate at which rows skip the last block's branches in training, see `add_drop_path`.
        gradient_checkpointing: whether to `checkpoint_blocks`.

    Raises:
        ValueError: sizes that do not divide; a drop_path outside [0, 1).
    """
    if image_size % patch_size:
        raise ValueError(f"image_size must be a multiple of patch_size, got {image_size} and {patch_size}")
    if hidden_size % num_heads:
        raise ValueError(f"hidden_size must be a multiple of num_heads, got {hidden_size} and {num_heads}")
    config = ViTConfig(
        image_size=image_size,
        patch_size=patch_size,
        hidden_size=hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        intermediate_size=4 * hidden_size,
        initializer_range=initializer_range,
        layer_norm_eps=1e-6,
        attn_implementation=attention,
    )
    encoder = ViTModel(config, add_pooling_layer=False)
    if drop_path:
        add_drop_path(encoder, drop_path)
    if gradient_checkpointing:
        checkpoint_blocks(encoder)
    return encoder
