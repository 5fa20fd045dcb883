"""Weights that come as pickles, which run whatever their maker liked, are not loaded; only safetensors are."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from penstock.producer.loading import load_pipeline, load_tiny_autoencoder
from penstock.protocol.errors import ModelError

CPU = torch.device("cpu")


class Canary:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self._path),)


def poison(weights: Path, canary: Path) -> None:
    """Put a pickle in the place of safetensors, under the name by which libraries look for one."""
    weights.unlink()
    name = "pytorch_model.bin" if weights.name == "model.safetensors" else "diffusion_pytorch_model.bin"
    weights.with_name(name).write_bytes(pickle.dumps({"weight": Canary(canary)}))


def test_the_canary_sings_where_a_pickle_is_loaded(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Canary(tmp_path / "sings")))
    assert (tmp_path / "sings").is_dir()


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_generator_s_pickle_is_not_loaded(pipeline_folder: Path, tmp_path: Path, part: str) -> None:
    folder = shutil.copytree(pipeline_folder, tmp_path / "model")
    (weights,) = (folder / part).glob("*.safetensors")
    poison(weights, tmp_path / "sings")
    with pytest.raises(ModelError, match="does not load as a text-to-image pipeline"):
        load_pipeline(folder, torch.float32, CPU)
    assert not (tmp_path / "sings").exists()


def test_a_tiny_autoencoder_s_pickle_is_not_loaded(pipeline_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(pipeline_folder / "vae", tmp_path / "vae")
    (weights,) = folder.glob("*.safetensors")
    poison(weights, tmp_path / "sings")
    with pytest.raises(ModelError, match="does not load as a tiny autoencoder"):
        load_tiny_autoencoder(folder, torch.float32, CPU)
    assert not (tmp_path / "sings").exists()
