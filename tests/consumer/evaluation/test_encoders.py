"""What an encoder's features are, and what its digest notices."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModel,
    CLIPConfig,
    CLIPModel,
    SiglipConfig,
    SiglipModel,
    ViTConfig,
    ViTForImageClassification,
    ViTMAEConfig,
    ViTMAEModel,
)

from penstock.consumer.evaluation.encoders import load_encoder
from penstock.consumer.export import save_pair
from penstock.consumer.models import build_encoder
from penstock.consumer.text_tower import LanguageHead, build_text_tower
from penstock.consumer.tokenizer import open_tokenizer
from penstock.kernels.augment_recipe import AugmentRecipe
from penstock.protocol.errors import ConfigError

CPU = torch.device("cpu")
PIXELS = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(5))
TOWER = {"hidden_size": 12, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3}
VISION = {**TOWER, "image_size": 16, "patch_size": 8}


def hidden(folder: Path) -> Tensor:
    """CLS after the last LayerNorm, by transformers alone."""
    model = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    with torch.no_grad():
        state: Tensor = model(pixel_values=PIXELS).last_hidden_state[:, 0]
    return state


def write_preprocessing(folder: Path) -> None:
    values = {"size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(values))


def write_tokenizer(folder: Path) -> int:
    tokenizer = open_tokenizer("own", ["a red fox", "a blue owl"], 10)
    tokenizer.save(folder)
    return tokenizer.vocab_size


def test_a_vit_s_feature_is_its_cls_token_after_the_last_norm(encoder_folder: Path) -> None:
    encoder = load_encoder(str(encoder_folder), CPU)
    torch.testing.assert_close(encoder.embed_images(PIXELS), hidden(encoder_folder))
    assert encoder.dim == 12
    assert encoder.preprocessing.size == 16
    assert encoder.text is None


def test_a_run_s_folder_means_its_encoder_and_its_pair_where_there_is_one(encoder_folder: Path) -> None:
    run = encoder_folder.parent
    assert load_encoder(str(run), CPU).digest == load_encoder(str(encoder_folder), CPU).digest
    tokenizer = open_tokenizer("own", ["a red fox", "a blue owl"], 10)
    tower = build_text_tower(
        tokenizer.vocab_size, tokenizer.end_id, hidden_size=12, num_layers=1, num_heads=3, max_tokens=10
    )
    torch.manual_seed(1)
    encoder, head = build_encoder(16, 8, 12, 1, 3), LanguageHead(12, 12, 7)
    save_pair(run / "pair", encoder, tower, head, tokenizer, AugmentRecipe.weak(16))
    pair = load_encoder(str(run), CPU)
    with torch.no_grad():
        cls = encoder.eval()(pixel_values=PIXELS).last_hidden_state[:, 0]
        projected = head.image_projection(cls)
    torch.testing.assert_close(pair.embed_images(PIXELS), cls)  # the probe's, as that of the encoder alone
    assert pair.text is not None
    torch.testing.assert_close(pair.text.embed_images(PIXELS), projected)
    assert pair.text.embed_texts(["a red fox", "a blue owl"]).shape == (2, 7)


def test_clip_s_feature_is_its_tower_s_and_zero_shot_s_is_projected(tmp_path: Path) -> None:
    size = write_tokenizer(tmp_path)
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={**TOWER, "vocab_size": size, "max_position_embeddings": 10, "eos_token_id": size - 1},
        vision_config=VISION,
        projection_dim=7,
    )
    model = CLIPModel(config).eval()
    model.save_pretrained(tmp_path)
    write_preprocessing(tmp_path)
    encoder = load_encoder(str(tmp_path), CPU)
    with torch.no_grad():
        whole = model.vision_model(pixel_values=PIXELS)
        torch.testing.assert_close(encoder.embed_images(PIXELS), whole.pooler_output)
        assert encoder.text is not None
        torch.testing.assert_close(encoder.text.embed_images(PIXELS), model.visual_projection(whole.pooler_output))


def test_siglip_s_texts_are_padded_to_their_full_length(tmp_path: Path) -> None:
    size = write_tokenizer(tmp_path)
    torch.manual_seed(0)
    text = {**TOWER, "vocab_size": size, "max_position_embeddings": 10, "projection_size": 12}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=VISION)).eval()
    model.save_pretrained(tmp_path)
    write_preprocessing(tmp_path)
    encoder = load_encoder(str(tmp_path), CPU)
    assert encoder.text is not None
    seen: list[tuple[int, ...]] = []
    encoder_text = encoder.text.embed_texts
    original = SiglipModel.get_text_features
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            SiglipModel,
            "get_text_features",
            lambda self, input_ids, **rest: seen.append(tuple(input_ids.shape)) or original(self, input_ids, **rest),
        )
        assert encoder_text(["a"]).shape == (1, 12)
    assert seen == [(1, 10)]


def test_a_classifier_s_folder_gives_its_encoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ViTForImageClassification(ViTConfig(**VISION)).save_pretrained(tmp_path)
    write_preprocessing(tmp_path)
    torch.testing.assert_close(load_encoder(str(tmp_path), CPU).embed_images(PIXELS), hidden(tmp_path))


def test_a_changed_weight_or_setting_changes_the_digest_and_a_copy_does_not(encoder_folder: Path) -> None:
    digest = load_encoder(str(encoder_folder), CPU).digest
    copy = encoder_folder.with_name("copy")
    shutil.copytree(encoder_folder, copy)
    assert load_encoder(str(copy), CPU).digest == digest
    weights = load_file(copy / "model.safetensors")
    name = next(name for name in weights if name.endswith("query.bias"))
    weights[name][3] += 1e-6
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert load_encoder(str(copy), CPU).digest != digest
    shutil.copy(encoder_folder / "model.safetensors", copy / "model.safetensors")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 0.1}))
    assert load_encoder(str(copy), CPU).digest != digest


def test_random_weights_follow_the_seed_and_disturb_no_other_draw(encoder_folder: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    digests = [load_encoder(f"random:{encoder_folder}", CPU, seed=seed).digest for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]
    assert digests[0] != load_encoder(str(encoder_folder), CPU).digest
    assert torch.equal(torch.rand(2), expected)


def test_pixels_are_less_their_mean_colour() -> None:
    encoder = load_encoder("pixels", CPU)
    drawing = torch.rand(1, 1, 32, 32)
    tinted = torch.cat([drawing.expand(1, 3, 32, 32) + tint for tint in (0.0, torch.rand(3, 1, 1))])
    first, second = encoder.embed_images(tinted)
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)
    assert encoder.dim == 3072


def test_weights_that_would_be_random_are_refused(encoder_folder: Path) -> None:
    weights = load_file(encoder_folder / "model.safetensors")
    del weights["layernorm.weight"]
    save_file(weights, encoder_folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks weights, which would be random: layernorm\.weight"):
        load_encoder(str(encoder_folder), CPU)


def test_weights_in_a_pickle_are_not_loaded(encoder_folder: Path, tmp_path: Path) -> None:
    """Whatever the pickle would have done is not done: here it would make a folder."""

    class Canary:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return os.mkdir, (str(tmp_path / "sings"),)

    (encoder_folder / "model.safetensors").unlink()
    (encoder_folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Canary()}))
    with pytest.raises(ConfigError, match="cannot be loaded as an encoder") as caught:
        load_encoder(str(encoder_folder), CPU)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "sings").exists()


def test_bad_sources_end_as_one_line(encoder_folder: Path, tmp_path: Path) -> None:
    for source, reason in (
        ("", "encoder must name a run folder"),
        (str(tmp_path / "absent"), "absent is not there"),
        ("no-such/model", "no-such/model cannot be loaded as an encoder"),
        (str(tmp_path), ""),
    ):
        if source == str(tmp_path):
            shutil.move(encoder_folder, tmp_path / "elsewhere")
            reason = "holds no encoder: no config.json"
        with pytest.raises(ConfigError, match=reason) as caught:
            load_encoder(source, CPU)
        assert "\n" not in str(caught.value)


def test_an_encoder_without_preprocessing_or_of_another_size_is_refused(encoder_folder: Path) -> None:
    path = encoder_folder / "preprocessor_config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "size": 24}))
    with pytest.raises(ConfigError, match="cannot encode 24 x 24 pixels, its preprocessor's size"):
        load_encoder(str(encoder_folder), CPU)
    path.unlink()
    with pytest.raises(ConfigError, match=r"has no preprocessor_config\.json, so nobody knows"):
        load_encoder(str(encoder_folder), CPU)


def test_a_model_whose_feature_is_not_known_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ViTMAEModel(ViTMAEConfig(**VISION)).save_pretrained(tmp_path)
    write_preprocessing(tmp_path)
    with pytest.raises(ConfigError, match="is a vit_mae, whose feature is not known; known are vit, "):
        load_encoder(str(tmp_path), CPU)
