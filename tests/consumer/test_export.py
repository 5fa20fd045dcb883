"""The folders that a run leaves, loaded as anyone would: without Penstock, in another process."""

import json
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    CLIPTextModel,
    VisionTextDualEncoderModel,
    ViTModel,
)

from penstock.consumer.export import save_encoder, save_pair
from penstock.consumer.models import build_encoder
from penstock.consumer.text_tower import LanguageHead, build_text_tower, encode_text
from penstock.consumer.tokenizer import CaptionTokenizer, open_tokenizer
from penstock.kernels.augment import prepare
from penstock.kernels.augment_recipe import AugmentRecipe

torch.set_num_threads(1)

CAPTIONS = [f"a handwritten {word} on {paper} paper" for word in ("one", "two", "six") for paper in ("pink", "grey")]
RECIPE = AugmentRecipe.weak(16)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tiny_encoder() -> ViTModel:
    torch.manual_seed(0)
    return build_encoder(16, 8, 12, 2, 3, initializer_range=0.3)


def tiny_pair() -> tuple[ViTModel, CLIPTextModel, LanguageHead, CaptionTokenizer]:
    """Encoder, text tower, head and tokenizer, none of them as it was initialised."""
    encoder = tiny_encoder()
    tokenizer = open_tokenizer("own", CAPTIONS, 16)
    tower = build_text_tower(
        tokenizer.vocab_size, tokenizer.end_id, hidden_size=20, num_layers=2, num_heads=4, max_tokens=16
    )
    head = LanguageHead(12, 20, 8)
    with torch.no_grad():
        for module in (encoder, tower):
            for parameter in module.parameters():
                parameter.add_(normal(*parameter.shape, seed=parameter.numel()) * 0.1)
        tower.embeddings.token_embedding.weight.mul_(20)  # captions that differ
        head.logit_scale.fill_(3.25)
    return encoder.eval(), tower.eval(), head, tokenizer


def pictures() -> Tensor:
    """uint8 `[5, 16, 16, 3]`."""
    return torch.randint(0, 256, (5, 16, 16, 3), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)


def test_saved_encoder_reloads_as_an_ordinary_automodel(tmp_path: Path) -> None:
    encoder, images = tiny_encoder().eval(), normal(2, 3, 16, 16)
    save_encoder(encoder, tmp_path / "encoder", RECIPE)
    loaded = AutoModel.from_pretrained(tmp_path / "encoder", add_pooling_layer=False).eval()
    assert isinstance(loaded, ViTModel)
    with torch.no_grad():
        ours, theirs = (model(pixel_values=images).last_hidden_state for model in (encoder, loaded))
    assert torch.equal(ours, theirs)
    plain = AutoModel.from_pretrained(tmp_path / "encoder").eval()  # brings its own pooler, which nobody reads
    with torch.no_grad():
        assert torch.equal(plain(pixel_values=images).last_hidden_state, ours)


def test_saved_preprocessing_equals_prepare(tmp_path: Path) -> None:
    recipe = RECIPE
    save_encoder(tiny_encoder(), tmp_path, recipe)
    images = torch.randint(0, 256, (2, 16, 16, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    theirs = processor(list(images.numpy()), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(prepare(images, recipe), theirs, rtol=0, atol=1e-5)


STRANGER = """
import json, sys
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

folder, captions = sys.argv[1], json.loads(sys.argv[2])
model = AutoModel.from_pretrained(folder).eval()
text = AutoTokenizer.from_pretrained(folder)(captions, padding=True, return_tensors="pt")
images = list(load_file(folder + "/pictures.safetensors")["images"].numpy())
pixels = AutoImageProcessor.from_pretrained(folder)(images, return_tensors="pt")["pixel_values"]
assert not any(name.startswith("penstock") for name in sys.modules)
with torch.no_grad():
    found = {
        "images": model.get_image_features(pixel_values=pixels).pooler_output,
        "texts": model.get_text_features(**text).pooler_output,
        "logits": model(pixel_values=pixels, **text).logits_per_image.contiguous(),
    }
save_file(found, folder + "/found.safetensors")
"""


def test_a_stranger_gets_our_features_and_our_zero_shot_answers(tmp_path: Path) -> None:
    encoder, tower, head, tokenizer = tiny_pair()
    save_pair(tmp_path, encoder, tower, head, tokenizer, RECIPE)
    save_file({"images": pictures()}, tmp_path / "pictures.safetensors")
    subprocess.run(
        [sys.executable, "-c", STRANGER, str(tmp_path), json.dumps(CAPTIONS)], check=True, cwd=tmp_path, timeout=100
    )
    found = load_file(tmp_path / "found.safetensors")
    with torch.no_grad():
        pixels = prepare(pictures(), RECIPE)
        images = head.image_projection(encoder(pixel_values=pixels).last_hidden_state[:, 0])
        texts = head.text_projection(encode_text(tower, tokenizer(CAPTIONS)))
        logits = head.logit_scale.exp() * F.normalize(images) @ F.normalize(texts).T
    torch.testing.assert_close(found["images"], images, rtol=0, atol=1e-5)
    torch.testing.assert_close(found["texts"], texts, rtol=0, atol=1e-5)
    torch.testing.assert_close(found["logits"], logits, rtol=0, atol=1e-4)  # cosines to 1e-5, times 26
    assert torch.equal(found["logits"].argmax(dim=1), logits.argmax(dim=1))
    assert len(set(logits.argmax(dim=1).tolist())) > 1


def test_a_pair_keeps_every_setting_and_has_only_safetensors(tmp_path: Path) -> None:
    encoder, tower, head, tokenizer = tiny_pair()
    save_pair(tmp_path / "new" / "pair", encoder, tower, head, tokenizer, RECIPE)
    loaded = VisionTextDualEncoderModel.from_pretrained(tmp_path / "new" / "pair")
    assert loaded.config.vision_config.layer_norm_eps == 1e-6
    assert loaded.config.text_config.layer_norm_eps == 1e-5
    assert loaded.config.text_config.hidden_act == "quick_gelu"
    assert loaded.config.text_config.eos_token_id == tokenizer.end_id
    assert loaded.logit_scale.item() == 3.25
    assert AutoTokenizer.from_pretrained(tmp_path / "new" / "pair").model_max_length == 16
    assert {path.name for path in (tmp_path / "new" / "pair").iterdir()} == {
        *("config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json")
    }


def test_exporting_changes_nothing_of_what_is_trained(tmp_path: Path) -> None:
    encoder, tower, head, tokenizer = tiny_pair()
    modules = (encoder, tower, head)
    before = [{name: weight.clone() for name, weight in module.state_dict().items()} for module in modules]
    configs, random = [module.config.to_dict() for module in modules[:2]], torch.get_rng_state()
    save_pair(tmp_path, encoder, tower, head, tokenizer, RECIPE)
    assert encoder.pooler is None
    assert [module.config.to_dict() for module in modules[:2]] == configs
    assert torch.equal(torch.get_rng_state(), random)
    for module, weights in zip(modules, before, strict=True):
        assert module.state_dict().keys() == weights.keys()
        assert all(torch.equal(weight, weights[name]) for name, weight in module.state_dict().items())
        assert all(parameter.requires_grad for parameter in module.parameters())
