from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from penstock.producer.tiny import train
from penstock.toyworld.captions import VOCABULARY

FEW = ["--autoencoder-steps", "2", "--decoder-steps", "1", "--steps", "2", "--batch", "8", "--threads", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("first") / "model"
    train.main(["--out", str(out), *FEW])
    return out


def test_script_leaves_an_ordinary_pipeline(folder: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a handwritten one", num_inference_steps=2, output_type="np").images[0]
    assert image.shape == (32, 32, 3)
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 8_000_000


def test_configurations_name_no_place_on_this_machine(folder: Path) -> None:
    assert not [path for path in folder.rglob("*.json") if str(folder.parent) in path.read_text()]


def test_equal_seeds_train_equal_weights_even_from_a_saved_autoencoder(folder: Path, tmp_path: Path) -> None:
    vae = folder.with_name("model.vae")
    train.main(["--out", str(tmp_path / "again"), "--autoencoder", str(vae), *FEW])
    for part in ("unet/diffusion_pytorch_model", "text_encoder/model", "vae/diffusion_pytorch_model"):
        first, second = (load_file(root / f"{part}.safetensors") for root in (folder, tmp_path / "again"))
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_batches_are_drawn_afresh_and_mostly_captioned() -> None:
    rng = np.random.default_rng(0)
    pixels, captions = train.draw_batch(500, rng)
    assert pixels.shape == (500, 3, 32, 32)
    assert float(pixels.min()) >= -1
    assert float(pixels.max()) <= 1
    assert 25 < captions.count("") < 80  # one in ten is empty, for guidance
    assert {word for text in captions for word in text.split()} <= set(VOCABULARY)
    assert not torch.equal(pixels, train.draw_batch(500, rng)[0])
