"""Scorers: what transformers' own forward gives, whatever else is scored; and one line for what is none.

Small CLIPs and SigLIPs are made here, with random weights in their own classes. Expected pixels are those of
transformers' own image processors, which work on Pillow.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    ViTConfig,
    ViTModel,
)

from penstock.producer.scorer import TOYWORLD, TOYWORLD_MIN_SCORE, ImageTextScorer, open_scorer
from penstock.producer.scorer_pixels import read_pixels, size_for_patches
from penstock.producer.tiny.tokenizer import make_tokenizer
from penstock.protocol.errors import ModelError
from penstock.toyworld.captions import caption
from penstock.toyworld.render import draw_styles, render
from penstock.toyworld.scans import load_split

torch.set_num_threads(1)
SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
TOKENS = 8
PROMPTS = ["a red fox", "fox", "a", "red red red", "a fox a fox a fox a fox"]


def _make(folder: Path, kind: str) -> Path:
    torch.manual_seed(0)
    tokenizer = make_tokenizer(["a", "red", "fox"], folder, TOKENS)
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": TOKENS, **special, **SMALL}
    vision = {"image_size": 16, "patch_size": 8, **SMALL}
    if kind == "clip":
        model: Any = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
        CLIPImageProcessorPil(size={"shortest_edge": 20}, crop_size=16).save_pretrained(folder)
    elif kind == "siglip":
        model = SiglipModel(SiglipConfig(text_config=text | {"projection_size": 16}, vision_config=vision))
        SiglipImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    else:
        vision = {"patch_size": 4, "num_patches": 16, **SMALL}
        model = Siglip2Model(Siglip2Config(text_config=text | {"projection_size": 16}, vision_config=vision))
        Siglip2ImageProcessorPil(patch_size=4, max_num_patches=16).save_pretrained(folder)
    if kind != "clip":
        torch.nn.init.constant_(model.logit_scale, 1.0)
        torch.nn.init.constant_(model.logit_bias, -0.5)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = _make(tmp_path_factory.mktemp(kind), kind)
        return made[kind]

    return folder


def _images(num: int, height: int = 32, width: int = 24) -> NDArray[np.uint8]:
    """Smooth images, as generators make them: noise would be all edges, where any two resizers differ most."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.random((num, 3, 5, 5)))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return np.asarray((smooth * 255).round().byte().permute(0, 2, 3, 1).contiguous())


def _load(folder: Path, dtype: str = "float32") -> ImageTextScorer:
    scorer = open_scorer(str(folder), "cpu", dtype)
    scorer.load()
    return scorer


PROCESSORS = {"clip": CLIPImageProcessorPil, "siglip": SiglipImageProcessorPil, "siglip2": Siglip2ImageProcessorPil}
MODELS = {"clip": CLIPModel, "siglip": SiglipModel, "siglip2": Siglip2Model}


@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2"])
def test_a_score_is_what_transformers_own_forward_says(kind: str, folder_of: Callable[[str], Path]) -> None:
    side = 20 if kind == "clip" else 16  # what the settings make anyway: how images are resized is the next test's
    folder, images = folder_of(kind), _images(len(PROMPTS), side, side)
    model = MODELS[kind].from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = PROCESSORS[kind].from_pretrained(folder)(list(images), return_tensors="pt")
    texts = tokenizer(PROMPTS, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        answer = model(**texts, **inputs)
    expected = answer.logits_per_image.sigmoid() if kind != "clip" else answer.image_embeds @ answer.text_embeds.T
    scorer = _load(folder)
    assert scorer.score(images, PROMPTS) == pytest.approx(expected.diagonal().numpy(), abs=1e-5)
    assert scorer.score_each(images, PROMPTS) == pytest.approx(expected.numpy(), abs=1e-5)
    assert expected.diagonal().std() > 0.01  # they differ


@pytest.mark.parametrize("shape", [(32, 24), (24, 40), (16, 16), (9, 64), (200, 130)])
@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2"])
def test_pixels_are_those_of_transformers_own_processor(
    kind: str, shape: tuple[int, int], folder_of: Callable[[str], Path]
) -> None:
    images = _images(2, *shape)
    expected = PROCESSORS[kind].from_pretrained(folder_of(kind))(list(images), return_tensors="pt")
    pixels = read_pixels(folder_of(kind))(torch.from_numpy(images))
    assert set(pixels) == set(expected)
    for name, values in pixels.items():
        # Two levels of 255, divided by the least standard deviation.
        assert torch.allclose(values.double(), expected[name].double(), atol=2 / 255 / 0.26), name


@pytest.mark.parametrize(("sides", "expected"), [((256, 256), (256, 256)), ((100, 400), (128, 512))])
def test_an_image_of_any_shape_becomes_as_many_patches_as_it_may(sides: tuple[int, int], expected: Any) -> None:
    assert size_for_patches(*sides, 16, 256) == expected


@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2"])
def test_what_else_is_scored_changes_no_score(kind: str, folder_of: Callable[[str], Path]) -> None:
    scorer, images = _load(folder_of(kind)), _images(40)
    prompts = [PROMPTS[row % len(PROMPTS)] for row in range(40)]
    together = scorer.score(images, prompts)
    alone = np.concatenate([_load(folder_of(kind)).score(images[r : r + 1], prompts[r : r + 1]) for r in (0, 17, 39)])
    assert (together[[0, 17, 39]] == alone).all()
    order = np.random.default_rng(0).permutation(40)
    assert (scorer.score(images[order], [prompts[row] for row in order]) == together[order]).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2"])
def test_a_gpu_scores_as_a_cpu_does(kind: str, folder_of: Callable[[str], Path]) -> None:
    images = _images(40)
    prompts = [PROMPTS[row % len(PROMPTS)] for row in range(40)]
    expected = _load(folder_of(kind)).score(images, prompts)
    for dtype, tolerance in (("float32", 1e-3), ("float16", 1e-2)):
        scorer = open_scorer(str(folder_of(kind)), "cuda", dtype)
        scorer.load()
        together = scorer.score(images, prompts)
        assert together == pytest.approx(expected, abs=tolerance)
        assert (scorer.score(images[17:18], prompts[17:18]) == together[17]).all()


def test_texts_are_kept_and_the_longest_unused_goes_first(
    folder_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.producer.scorer._KEPT_TEXTS", 3)
    scorer, images = _load(folder_of("clip")), _images(5)
    first = scorer.score(images, PROMPTS)
    embedded: list[str] = []
    embed = scorer._embed_block

    def counted(block: list[str]) -> list[torch.Tensor]:
        embedded.extend(block)
        return embed(block)

    monkeypatch.setattr(scorer, "_embed_block", counted)
    assert (scorer.score(images, PROMPTS) == first).all()
    assert embedded == PROMPTS[:2]


def test_nothing_and_too_few_prompts(folder_of: Callable[[str], Path]) -> None:
    scorer = _load(folder_of("clip"))
    assert scorer.score(_images(0), []).shape == (0,)
    with pytest.raises(ValueError, match="a prompt for each image, got 1 for 2"):
        scorer.score(_images(2), ["a"])


def test_the_digest_is_of_weights_tokenizer_and_settings(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder_of("clip"), tmp_path / "copy"))
    digest = open_scorer(str(folder_of("clip")), "cpu", "float32").digest
    (copy / "README.md").write_text("a model")
    assert open_scorer(str(copy), "cpu", "bfloat16").digest == digest
    for name in ("model.safetensors", "vocab.json", "preprocessor_config.json", "config.json"):
        before = (copy / name).read_bytes()
        (copy / name).write_bytes(before + b" ")
        assert open_scorer(str(copy), "cpu", "float32").digest != digest, name
        (copy / name).write_bytes(before)


def _break(folder: Path, how: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    if how == "vit":
        (folder / "model.safetensors").unlink()
        ViTModel(ViTConfig(image_size=16, patch_size=8, **SMALL)).save_pretrained(folder)
    elif how == "no tokenizer":
        for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "tokenizer.json"):
            (folder / name).unlink(missing_ok=True)
    elif how == "broken tokenizer":
        (folder / "vocab.json").write_text("{")
    elif how == "unknown":
        (folder / "config.json").write_text(json.dumps(config | {"model_type": "abacus"}))
    elif how == "no settings":
        (folder / "preprocessor_config.json").unlink()
    elif how == "odd settings":
        (folder / "preprocessor_config.json").write_text(json.dumps(settings | {"do_normalize": False}))
    elif how == "other size":
        settings |= {"size": {"shortest_edge": 32}, "crop_size": 32}
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    elif how == "pickle":
        torch.save({}, folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    elif how == "truncated":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    elif how == "half":
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / "model.safetensors")
        kept = {name: weight for name, weight in weights.items() if not name.startswith("text_model.")}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("vit", "holds a vit, which does not embed images and texts alike"),
        ("no tokenizer", "has no tokenizer; save the model's own"),
        ("broken tokenizer", "the tokenizer in .* does not load"),
        ("unknown", "is no model that transformers knows"),
        ("no settings", "has no preprocessor_config.json"),
        ("odd settings", "do_normalize must be true, got False"),
        ("other size", "takes images of 16 x 16, its settings make \\(32, 32\\)"),
        ("pickle", "does not load: .*safetensors"),
        ("truncated", "does not load"),
        ("half", "lack .* tensors, such as text_model"),
    ],
)
def test_what_is_no_scorer_is_one_line(how: str, said: str, folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folder_of("clip"), tmp_path / "clip"))
    _break(folder, how)
    with pytest.raises(ModelError, match=f"^scorer: .*{said}") as caught:
        _load(folder)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["missing", "/nowhere/at/all", ""])
def test_a_missing_folder_is_one_line_with_what_to_give(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"no folder with a config.json; give a folder .* or 'toyworld'"):
        open_scorer(name, "cpu", "float32")


def test_a_hub_id_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="scorer 'nobody/nothing': no folder of that name here") as caught:
        open_scorer("nobody/nothing", "cpu", "float32")
    assert len(str(caught.value).splitlines()) == 1


def test_the_shipped_scorer_tells_wrong_digits_from_right_ones() -> None:
    from sklearn.metrics import roc_auc_score

    rng, scans = np.random.default_rng(0), load_split("test")
    rows = rng.choice(len(scans), 160, replace=False)
    images, digits = render(scans.images[rows], rng, draw_styles(160, rng)), scans.labels[rows]
    scorer = open_scorer("toyworld", "cpu", "float32")
    scorer.load()
    right = scorer.score(images, [caption(int(digit)) for digit in digits])
    wrong = scorer.score(images, [caption(int(digit)) for digit in (digits + rng.integers(1, 10, 160)) % 10])
    assert roc_auc_score([1] * 160 + [0] * 160, [*right, *wrong]) >= 0.98
    assert (right < TOYWORLD_MIN_SCORE).mean() <= 0.1
    assert (wrong < TOYWORLD_MIN_SCORE).mean() >= 0.9


def test_the_shipped_scorer_is_small_and_holds_safetensors_only() -> None:
    files = [path for path in TOYWORLD.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 1_500_000
    assert {path.suffix for path in files} == {".json", ".txt", ".md", ".safetensors"}
