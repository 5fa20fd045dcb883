"""A tiny encoder as a run leaves it."""

from pathlib import Path

import pytest
import torch

from penstock.consumer.export import save_encoder
from penstock.consumer.models import build_encoder
from penstock.kernels.augment_recipe import AugmentRecipe

torch.set_num_threads(1)


@pytest.fixture
def encoder_folder(tmp_path: Path) -> Path:
    """A ViT of 16 x 16 pixels, 12 wide and one layer deep."""
    torch.manual_seed(0)
    save_encoder(build_encoder(16, 8, 12, 1, 3, initializer_range=0.3), tmp_path / "encoder", AugmentRecipe.weak(16))
    return tmp_path / "encoder"
