"""Diversity within groups: a share that needs no scale, and a warning where it collapses."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig, ViTConfig, ViTModel

from penstock.producer.diversity import DiversityWatch, EncoderFeatures, open_features, pooled_pixels
from penstock.protocol.errors import ModelError

torch.set_num_threads(1)
DIM = 64


def _watch(
    within: float, between: float, num_groups: int = 40, num_images: int = 6, scale: float = 1.0
) -> DiversityWatch:
    """A watch that has seen groups around centres, both normally distributed."""
    generator = np.random.default_rng(0)
    watch = DiversityWatch()
    for number in range(num_groups):
        centre = between * generator.standard_normal(DIM)
        features = centre + within * generator.standard_normal((num_images, DIM))
        watch.add(f"prompt {number}", (scale * features).astype(np.float32))
    return watch


@pytest.mark.parametrize(("within", "between"), [(1.0, 1.0), (1.0, 3.0), (0.2, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_share_is_that_of_normal_distributions_at_any_scale(within: float, between: float, scale: float) -> None:
    """Differences have variances 2·within² and 2·(within² + between²) in every coordinate."""
    share = _watch(within, between, scale=scale).share
    assert share == pytest.approx(within / np.hypot(within, between), rel=0.05)


def test_too_few_groups_have_no_share() -> None:
    assert _watch(1.0, 1.0, num_groups=10).share is None


def test_a_group_of_one_image_and_groups_of_one_prompt_say_nothing() -> None:
    assert _watch(1.0, 1.0, num_images=1).share is None
    watch = DiversityWatch()
    for _ in range(40):
        watch.add("always the same", np.random.default_rng(1).standard_normal((4, DIM)).astype(np.float32))
    assert watch.share is None


def test_a_collapse_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        _watch(0.05, 1.0)
    (record,) = caplog.records
    assert "5% of that between prompts" in record.getMessage()
    assert "guidance_scale" in record.getMessage()
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        _watch(0.3, 1.0)
    assert not caplog.records


def test_pooled_pixels_are_mean_colours_of_a_grid() -> None:
    images = torch.rand((2, 3, 32, 16), generator=torch.Generator().manual_seed(0))
    expected = images.reshape(2, 3, 8, 4, 8, 2).mean((3, 5)).flatten(1)
    assert torch.allclose(pooled_pixels(images), expected, atol=1e-6)


def test_any_vision_encoder_gives_features_of_unit_length(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ViTModel(ViTConfig(image_size=16, patch_size=8, **small)).save_pretrained(tmp_path / "vit")
    vision = CLIPVisionConfig(image_size=16, patch_size=8, **small)
    text = CLIPTextConfig(vocab_size=8, **small)
    clip = CLIPModel(CLIPConfig(vision_config=vision.to_dict(), text_config=text.to_dict(), projection_dim=12))
    clip.save_pretrained(tmp_path / "clip")
    images = torch.rand((3, 3, 24, 24), generator=torch.Generator().manual_seed(0))
    for name, width in (("vit", 16), ("clip", 12)):
        with torch.inference_mode():
            features = open_features(str(tmp_path / name), torch.device("cpu"))(images)
        assert features.shape == (3, width)
        assert torch.allclose(features.norm(dim=1), torch.ones(3), atol=1e-5)
        assert not torch.allclose(features[0], features[1])


def test_a_folder_that_is_no_vision_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="diversity_encoder") as caught:
        EncoderFeatures(tmp_path, torch.device("cpu"))
    assert "\n" not in str(caught.value)
