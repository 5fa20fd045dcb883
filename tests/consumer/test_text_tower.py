"""The text tower against the published arithmetic, written once more with torch's own MultiheadAttention."""

import math

import pytest
import torch
from torch import Tensor, nn
from transformers import CLIPTextModel

from penstock.consumer.optimizer import decay_groups
from penstock.consumer.text_tower import LanguageHead, build_text_tower, encode_text

torch.set_num_threads(1)

VOCAB_SIZE, END = 40, 39


def tiny_tower(attention: str = "sdpa") -> CLIPTextModel:
    torch.manual_seed(0)
    return build_text_tower(
        VOCAB_SIZE, END, hidden_size=24, num_layers=3, num_heads=4, max_tokens=10, attention=attention
    )


def captions(*lengths: int, padding: int = END) -> Tensor:
    """Ids `[B, 10]`: a start token, so many words, the end token, padding."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.full((len(lengths), 10), padding)
    for row, length in zip(ids, lengths, strict=True):
        row[: length + 1] = torch.randint(0, 38, (length + 1,), generator=generator)
        row[length + 1] = END
    return ids


class PublishedBlock(nn.Module):
    """ResidualAttentionBlock of StableRepMM.py, with the weights of one of the tower's layers."""

    def __init__(self, layer: nn.Module, num_heads: int) -> None:
        super().__init__()
        ours = layer.self_attn
        self.attn = nn.MultiheadAttention(ours.embed_dim, num_heads, dtype=torch.float64)
        with torch.no_grad():
            self.attn.in_proj_weight.copy_(torch.cat([p.weight for p in (ours.q_proj, ours.k_proj, ours.v_proj)]))
            self.attn.in_proj_bias.copy_(torch.cat([p.bias for p in (ours.q_proj, ours.k_proj, ours.v_proj)]))
        self.attn.out_proj.load_state_dict(ours.out_proj.state_dict())
        self.ln_1, self.ln_2 = (nn.LayerNorm(ours.embed_dim, dtype=torch.float64) for _ in range(2))
        self.ln_1.load_state_dict(layer.layer_norm1.state_dict())
        self.ln_2.load_state_dict(layer.layer_norm2.state_dict())
        self.c_fc, self.c_proj = layer.mlp.fc1, layer.mlp.fc2

    def forward(self, x: Tensor) -> Tensor:
        """`[L, N, D]` to the same."""
        mask = torch.full((len(x), len(x)), float("-inf"), dtype=x.dtype).triu_(1)
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        inner = self.c_fc(self.ln_2(x))
        return x + self.c_proj(inner * torch.sigmoid(1.702 * inner))


def published(tower: CLIPTextModel, text: Tensor) -> Tensor:
    """`encode_text` of StableRepMM.py."""
    x = tower.embeddings.token_embedding(text)
    x = x + tower.embeddings.position_embedding.weight
    x = x.permute(1, 0, 2)
    for layer in tower.encoder.layers:
        x = PublishedBlock(layer, 4)(x)
    final = nn.LayerNorm(x.shape[-1], dtype=torch.float64)
    final.load_state_dict(tower.final_layer_norm.state_dict())
    x = final(x.permute(1, 0, 2))
    return x[torch.arange(x.shape[0]), text.argmax(dim=-1)]


def trained(tower: CLIPTextModel) -> CLIPTextModel:
    """The tower in float64 with no parameter left at 0 or 1, so that a forgotten one shows."""
    generator = torch.Generator().manual_seed(2)
    tower = tower.double()
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.3)
    return tower


def test_feature_equals_the_published_arithmetic() -> None:
    tower = trained(tiny_tower())
    ids = captions(0, 3, 8)
    torch.testing.assert_close(encode_text(tower, ids), published(tower, ids), rtol=0, atol=1e-10)


def test_both_attentions_compute_the_same_features() -> None:
    ids = captions(0, 3, 8)
    features = [encode_text(trained(tiny_tower(attention)), ids) for attention in ("sdpa", "eager")]
    torch.testing.assert_close(*features, rtol=0, atol=1e-6)  # the eager softmax is float32 always


def test_what_stands_behind_the_end_changes_nothing() -> None:
    tower = trained(tiny_tower())
    feature = encode_text(tower, captions(2, 5))
    torch.testing.assert_close(encode_text(tower, captions(2, 5, padding=0)), feature, rtol=0, atol=1e-12)
    torch.testing.assert_close(encode_text(tower, captions(2, 5)[:, :7]), feature, rtol=0, atol=1e-12)
    masked = tower(input_ids=captions(2, 5), attention_mask=torch.tensor([[1] * 4 + [0] * 6, [1] * 7 + [0] * 3]))
    torch.testing.assert_close(masked.pooler_output, feature, rtol=0, atol=1e-12)


def test_the_end_token_need_not_have_the_highest_id() -> None:
    tower = build_text_tower(VOCAB_SIZE, 7, hidden_size=24, num_layers=1, num_heads=4, max_tokens=10)
    ids = torch.tensor([[0, 30, 20, 7, 7, 38]])
    last = tower(input_ids=ids).last_hidden_state
    torch.testing.assert_close(encode_text(tower, ids), last[:, 3])


def test_feature_depends_on_every_word_before_the_end() -> None:
    tower = trained(tiny_tower())
    feature = encode_text(tower, captions(6))
    for place in range(7):
        changed = captions(6)
        changed[0, place] = 38
        assert (encode_text(tower, changed) - feature).abs().max() > 1e-3


def test_initial_weights_have_the_published_spread() -> None:
    torch.manual_seed(0)
    width, num_layers = 128, 3
    tower = build_text_tower(2000, 1999, hidden_size=width, num_layers=num_layers, num_heads=4, max_tokens=77)
    projection = width**-0.5 * (2 * num_layers) ** -0.5
    assert tower.embeddings.token_embedding.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert tower.embeddings.position_embedding.weight.std().item() == pytest.approx(0.01, rel=0.05)
    for layer in tower.encoder.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj):
            assert linear.weight.std().item() == pytest.approx(width**-0.5, rel=0.05)
            assert not linear.bias.any()
        assert attention.out_proj.weight.std().item() == pytest.approx(projection, rel=0.05)
        assert not attention.out_proj.bias.any()
        assert mlp.fc1.weight.std().item() == pytest.approx((2 * width) ** -0.5, rel=0.05)
        assert mlp.fc2.weight.std().item() == pytest.approx(projection, rel=0.05)
        for linear in (mlp.fc1, mlp.fc2):  # nn.Linear's own: uniform within 1 / sqrt(inputs)
            bound = linear.in_features**-0.5
            assert linear.bias.abs().max() <= bound
            assert linear.bias.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.2)
    for name, parameter in tower.named_parameters():
        if "norm" in name:
            assert (parameter == (1.0 if name.endswith("weight") else 0.0)).all()


def test_defaults_are_the_published_sizes() -> None:
    with torch.device("meta"):
        tower = build_text_tower(49408, 49407)
    # StableRepMM.py: 77 tokens, 12 layers of 512 with 8 heads: an attention of 4 D², an MLP of 8 D², biases and norms.
    layer = 12 * 512**2 + (4 + 5 + 4) * 512
    assert sum(p.numel() for p in tower.parameters()) == 49408 * 512 + 77 * 512 + 12 * layer + 2 * 512
    assert tower.encoder.layers[0].self_attn.num_heads == 8


def test_every_parameter_of_tower_and_head_is_trained() -> None:
    tower, head = tiny_tower(), LanguageHead(12, 24, 8)
    text = head.text_projection(encode_text(tower, captions(3, 8)))
    image = head.image_projection(torch.randn(2, 12))
    (image @ text.T * head.logit_scale.exp()).square().sum().backward()
    assert all(p.grad is not None for p in (*tower.parameters(), *head.parameters())), "DDP forbids unused parameters"


def test_head_starts_as_published() -> None:
    torch.manual_seed(0)
    head = LanguageHead(384, 512)
    assert head.image_projection.weight.shape == (512, 384)
    assert head.text_projection.weight.shape == (512, 512)
    assert head.image_projection.weight.std().item() == pytest.approx(384**-0.5, rel=0.02)
    assert head.text_projection.weight.std().item() == pytest.approx(512**-0.5, rel=0.02)
    assert head.image_projection.bias is None
    assert head.text_projection.bias is None
    assert head.logit_scale.shape == ()
    assert head.logit_scale.exp().item() == pytest.approx(1 / 0.07)


@pytest.mark.parametrize(("value", "kept"), [(-1.0, 0.0), (3.0, 3.0), (5.0, 4.6052)])
def test_the_scale_is_kept_between_1_and_100(value: float, kept: float) -> None:
    head = LanguageHead(4, 4, 4)
    with torch.no_grad():
        head.logit_scale.fill_(value)
    head.clamp_()
    assert head.logit_scale.item() == pytest.approx(kept)
    assert head.logit_scale.requires_grad


def test_weight_decay_spares_the_scale_and_takes_the_projections() -> None:
    head = LanguageHead(4, 4, 4)
    decayed, spared = decay_groups(head, 0.5)
    assert decayed["params"] == [head.image_projection.weight, head.text_projection.weight]
    assert spared["params"] == [head.logit_scale]


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="hidden_size must be a multiple of num_heads, got 24 and 5"):
        build_text_tower(40, 39, hidden_size=24, num_heads=5)
    with pytest.raises(ValueError, match=r"end_id must lie in 0 \.\. 39 and not be 2, got 40"):
        build_text_tower(40, 40)
    with pytest.raises(ValueError, match="not be 2, got 2"):
        build_text_tower(40, 2)
