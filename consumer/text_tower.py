"""The text tower and the projections that StableRep+ and CLIP train beside the encoder.

The tower is `transformers`' CLIPTextModel with the arithmetic and the initial weights of StableRep's published code
(google-research/syn-rep-learn, StableRep/models/StableRepMM.py): causal attention, QuickGELU, LayerNorms of eps 1e-5,
the feature at the end token. `transformers` gives the attention's in- and out-projection each other's spread, zero
biases to the MLPs and twice the spread to the positions; here all follow the published code.
"""

import math

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

INITIAL_TEMPERATURE = 0.07
MAX_LOG_SCALE = 4.6052
"""The logarithm of 100: no cosine counts for more than that."""

_ARGMAX_END_ID = 2
"""CLIPTextModel takes this id for an old, broken configuration, and then looks for the highest id."""


def build_text_tower(
    vocab_size: int,
    end_id: int,
    *,
    hidden_size: int = 512,
    num_layers: int = 12,
    num_heads: int = 8,
    max_tokens: int = 77,
    attention: str = "sdpa",
) -> CLIPTextModel:
    """A text tower with random weights; the defaults are StableRep+'s.

    Args:
        vocab_size: rows of the token embedding.
        end_id: the token that ends a text, `CaptionTokenizer.end_id`.
        hidden_size: width of the tower and of its feature; its MLPs are four times as wide.
        num_layers: blocks.
        num_heads: of each block's attention.
        max_tokens: places that have a position embedding.
        attention: `sdpa` or `eager`; the same function.

    Raises:
        ValueError: sizes that do not divide; an end token outside the vocabulary, or of id 2.
    """
    if hidden_size % num_heads:
        raise ValueError(f"hidden_size must be a multiple of num_heads, got {hidden_size} and {num_heads}")
    if not 0 <= end_id < vocab_size or end_id == _ARGMAX_END_ID:
        raise ValueError(f"end_id must lie in 0 .. {vocab_size - 1} and not be {_ARGMAX_END_ID}, got {end_id}")
    config = CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        max_position_embeddings=max_tokens,
        hidden_act="quick_gelu",
        layer_norm_eps=1e-5,
        bos_token_id=None,
        eos_token_id=end_id,
        pad_token_id=None,
        attn_implementation=attention,
    )
    tower = CLIPTextModel(config)
    _initialise(tower)
    return tower


def encode_text(tower: CLIPTextModel, input_ids: Tensor) -> Tensor:
    """The feature of each text: int64 `[B, L]` to `[B, hidden_size]`, after the last LayerNorm at the first end token.

    Attention is causal, so what stands behind the end token changes nothing. Every text needs an end token.
    """
    feature: Tensor = tower(input_ids=input_ids).pooler_output
    return feature


class LanguageHead(nn.Module):
    """What brings image and text features together: two projections and the scale of their cosines.

    Attributes:
        image_projection: `[N, image_width]` to `[N, embed_dim]`.
        text_projection: `[N, text_width]` to `[N, embed_dim]`.
        logit_scale: scalar, the logarithm of what the cosines are multiplied by.
    """

    def __init__(self, image_width: int, text_width: int, embed_dim: int = 512) -> None:
        super().__init__()
        self.image_projection = _projection(image_width, embed_dim)
        self.text_projection = _projection(text_width, embed_dim)
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(INITIAL_TEMPERATURE)))

    @torch.no_grad()
    def clamp_(self) -> None:
        """Keep the scale of the cosines in 1 .. 100; for after every optimizer step."""
        self.logit_scale.clamp_(0.0, MAX_LOG_SCALE)


def _projection(width: int, embed_dim: int) -> nn.Linear:
    layer = nn.Linear(width, embed_dim, bias=False)
    nn.init.normal_(layer.weight, std=width**-0.5)
    return layer


@torch.no_grad()
def _initialise(tower: CLIPTextModel) -> None:
    width, num_layers = tower.config.hidden_size, tower.config.num_hidden_layers
    out_std = width**-0.5 * (2 * num_layers) ** -0.5
    nn.init.normal_(tower.embeddings.token_embedding.weight, std=0.02)
    nn.init.normal_(tower.embeddings.position_embedding.weight, std=0.01)
    for block in tower.encoder.layers:
        attention, mlp = block.self_attn, block.mlp
        for linear, std in (
            (attention.q_proj, width**-0.5),
            (attention.k_proj, width**-0.5),
            (attention.v_proj, width**-0.5),
            (attention.out_proj, out_std),
            (mlp.fc1, (2 * width) ** -0.5),
            (mlp.fc2, out_std),
        ):
            nn.init.normal_(linear.weight, std=std)
        # The published code leaves these as nn.Linear makes them.
        for linear in (mlp.fc1, mlp.fc2):
            bound = linear.in_features**-0.5
            nn.init.uniform_(linear.bias, -bound, bound)
