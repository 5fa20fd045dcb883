"""Encoders by name, against timm where it is there and against published numbers where it is not."""

import copy
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel, ViTModel

from penstock.consumer.encoders import build_timm_encoder, encoder_sizes, image_feature, is_vit, start_as_timm
from penstock.consumer.export import save_encoder, save_pair
from penstock.consumer.models import build_encoder
from penstock.consumer.optimizer import decay_groups
from penstock.consumer.text_tower import LanguageHead, build_text_tower
from penstock.consumer.tokenizer import open_tokenizer
from penstock.kernels.augment_recipe import AugmentRecipe
from penstock.protocol.errors import ConfigError

torch.set_num_threads(1)

SPELLINGS = [
    ("vit-s-16", "vit_small_patch16_224", 22.05),
    ("vit-b-16", "vit_base_patch16_224", 86.57),
    ("vit-l-16", "vit_large_patch16_224", 304.33),
]
"""With the millions of parameters in timm's table of results, a classifier of 1,000 classes among them."""


def pixels(size: int, seed: int = 0) -> Tensor:
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("ours", "timms", "millions"), SPELLINGS)
def test_named_vits_have_the_published_sizes(ours: str, timms: str, millions: float) -> None:
    sizes = encoder_sizes(ours)
    assert encoder_sizes(timms) == sizes
    assert is_vit(ours)
    assert is_vit(timms)
    with torch.device("meta"):
        encoder = build_encoder(224, sizes.patch_size, sizes.hidden_size, sizes.num_layers, sizes.num_heads)
    classifier = (sizes.hidden_size + 1) * 1000
    assert (sum(p.numel() for p in encoder.parameters()) + classifier) / 1e6 == pytest.approx(millions, abs=0.005)
    assert sizes.hidden_size // sizes.num_heads == 64


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    assert not is_vit("resnet50")
    with pytest.raises(ConfigError, match=r"must be one of vit-s-16, .*vit_large_patch16_224, got resnet50"):
        encoder_sizes("resnet50")


def test_start_as_timm_draws_timms_weights() -> None:
    torch.manual_seed(0)
    encoder = build_encoder(32, 8, 96, 2, 4, initializer_range=0.5)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(1.0)
    for norm in (module for module in encoder.modules() if isinstance(module, nn.LayerNorm)):
        norm.reset_parameters()
    start_as_timm(encoder)
    check_timms_start(encoder)


def check_timms_start(encoder: ViTModel) -> None:
    for module in encoder.modules():
        if isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)
            assert module.weight.mean().abs() < 1e-3
            assert not module.bias.any()
    assert encoder.embeddings.position_embeddings.std().item() == pytest.approx(0.02, rel=0.1)
    assert encoder.embeddings.cls_token.abs().max() < 1e-5
    patches = encoder.embeddings.patch_embeddings.projection
    bound = (3 * 8 * 8) ** -0.5  # nn.Conv2d's own: uniform within 1 / sqrt(inputs)
    for parameter in (patches.weight, patches.bias):
        assert parameter.abs().max() <= bound
        assert parameter.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.2)


def test_without_timm_its_names_end_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        ConfigError, match=r"encoder resnet18 needs timm, which cannot be imported .*vit-l-16"
    ) as caught:
        build_timm_encoder("resnet18", 32)
    assert "\n" not in str(caught.value)


def test_feature_of_a_vit_is_the_cls_token() -> None:
    encoder = build_encoder(16, 8, 12, 1, 3)
    torch.testing.assert_close(
        image_feature(encoder, pixels(16)), encoder(pixel_values=pixels(16)).last_hidden_state[:, 0]
    )


def test_checkpointing_keeps_less_and_computes_the_same_gradients() -> None:
    found = []
    for gradient_checkpointing in (False, True):
        torch.manual_seed(0)
        encoder = build_encoder(16, 8, 12, 3, 3, drop_path=0.5, gradient_checkpointing=gradient_checkpointing).train()
        kept: list[Tensor] = []

        def keep(tensor: Tensor, kept: list[Tensor] = kept) -> Tensor:
            kept.append(tensor)
            return tensor

        torch.manual_seed(1)  # checkpointing draws the same numbers again
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = image_feature(encoder, pixels(16)).square().sum()
        loss.backward()
        found.append((len(kept), [parameter.grad for parameter in encoder.parameters()]))
    (num_all, plain), (num_checkpointed, checkpointed) = found
    assert num_checkpointed < num_all / 2
    torch.testing.assert_close(checkpointed, plain)


def test_a_checkpointing_encoder_can_be_copied_and_exported(tmp_path: Path) -> None:
    encoder = build_encoder(16, 8, 12, 1, 3, drop_path=0.1, gradient_checkpointing=True)
    copied = copy.deepcopy(encoder).eval()  # as moving averages are
    save_encoder(encoder, tmp_path, AugmentRecipe.weak(16))
    loaded = AutoModel.from_pretrained(tmp_path, add_pooling_layer=False).eval()
    assert not any(getattr(module, "gradient_checkpointing", False) for module in loaded.modules())
    torch.testing.assert_close(image_feature(loaded, pixels(16)), image_feature(copied, pixels(16)))


# --- where timm is there ----------------------------------------------------------------------------------------------


@pytest.fixture
def timm() -> object:
    try:
        return pytest.importorskip("timm")
    except RuntimeError as error:  # a torchvision that does not fit torch
        pytest.skip(f"timm: {error}")


def test_the_named_vit_computes_what_timms_does(timm) -> None:  # type: ignore[no-untyped-def]
    theirs = timm.create_model("vit_small_patch16_224", num_classes=0, img_size=32, depth=2).double().eval()
    sizes = encoder_sizes("vit-s-16")
    ours = build_encoder(32, sizes.patch_size, sizes.hidden_size, 2, sizes.num_heads).double().eval()
    weights = theirs.state_dict()
    renamed = {
        "embeddings.cls_token": weights["cls_token"],
        "embeddings.position_embeddings": weights["pos_embed"],
        **{f"embeddings.patch_embeddings.projection.{end}": weights[f"patch_embed.proj.{end}"] for end in WEIGHT_BIAS},
        **{f"layernorm.{end}": weights[f"norm.{end}"] for end in WEIGHT_BIAS},
    }
    for block in range(2):
        for end in WEIGHT_BIAS:
            query_key_value = weights[f"blocks.{block}.attn.qkv.{end}"].chunk(3)
            for name, part in zip("qkv", query_key_value, strict=True):
                renamed[f"layers.{block}.attention.{name}_proj.{end}"] = part
            for name, timms in TIMM_NAMES.items():
                renamed[f"layers.{block}.{name}.{end}"] = weights[f"blocks.{block}.{timms}.{end}"]
    ours.load_state_dict(renamed)
    image = pixels(32).double()
    torch.testing.assert_close(image_feature(ours, image), theirs(image), rtol=0, atol=1e-10)


WEIGHT_BIAS = ("weight", "bias")
TIMM_NAMES = {
    "attention.o_proj": "attn.proj",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


@pytest.mark.parametrize(("name", "width"), [("resnet18", 512), ("vit_tiny_patch16_224", 192)])
def test_a_timm_encoder_starts_and_computes_as_timm_does(timm, name: str, width: int) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    encoder = build_timm_encoder(name, 32).eval()
    torch.manual_seed(0)
    arguments = {"img_size": 32} if name.startswith("vit") else {}
    theirs = timm.create_model(name, num_classes=0, **arguments).eval()
    assert encoder.config.hidden_size == width
    torch.testing.assert_close(image_feature(encoder, pixels(32)), theirs(pixels(32)))


def test_an_exported_timm_encoder_loads_as_an_automodel(timm, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    encoder = build_timm_encoder("resnet18", 32).eval()
    save_encoder(encoder, tmp_path, AugmentRecipe.weak(32))
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(pixel_values=pixels(32)).pooler_output, image_feature(encoder, pixels(32)))


def test_a_pair_with_a_timm_encoder_loads_as_an_automodel(timm, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    encoder = build_timm_encoder("vit_tiny_patch16_224", 32, drop_path=0.1).eval()
    tokenizer = open_tokenizer("own", ["a seven", "a six"], 8)
    tower = build_text_tower(
        tokenizer.vocab_size, tokenizer.end_id, hidden_size=8, num_layers=1, num_heads=2, max_tokens=8
    )
    head = LanguageHead(encoder.config.hidden_size, 8, 6)
    save_pair(tmp_path, encoder, tower, head, tokenizer, AugmentRecipe.weak(32))
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    ours = head.image_projection(image_feature(encoder, pixels(32)))
    torch.testing.assert_close(loaded.get_image_features(pixel_values=pixels(32)).pooler_output, ours)


def test_layers_of_a_timm_encoder_learn_the_slower_the_deeper_they_lie(timm) -> None:  # type: ignore[no-untyped-def]
    encoder = build_timm_encoder("vit_tiny_patch16_224", 32)
    names = {parameter: name for name, parameter in encoder.named_parameters()}
    scales = {
        names[parameter]: group["lr_scale"]
        for group in decay_groups(encoder, 0.1, layer_decay=0.5)
        for parameter in group["params"]
    }
    for name, scale in (("pos_embed", 2**-13), ("patch_embed.proj.bias", 2**-13), ("norm.weight", 1.0)):
        assert scales[f"timm_model.{name}"] == scale
    for block in range(12):
        assert scales[f"timm_model.blocks.{block}.attn.qkv.weight"] == 0.5 ** (12 - block)


def test_a_timm_encoder_checkpoints_its_blocks(timm) -> None:  # type: ignore[no-untyped-def]
    encoder = build_timm_encoder("vit_tiny_patch16_224", 32, gradient_checkpointing=True)
    assert encoder.timm_model.grad_checkpointing


def test_a_model_that_timm_does_not_have_is_refused(timm) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match="resnet17 is not among the models of timm"):
        build_timm_encoder("resnet17", 32)
    with pytest.raises(ConfigError, match="timm cannot make the encoder vgg11 for 32 x 32 pixels"):
        build_timm_encoder("vgg11", 32, drop_path=0.1)
