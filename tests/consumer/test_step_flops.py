"""The arithmetic of a step: against the published figure of a ViT-B/16, and what makes it more."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from penstock.consumer.building import build_network
from penstock.consumer.config import TrainConfig
from penstock.consumer.learning_config import ModelConfig, ObjectiveConfig, OptimizerConfig
from penstock.consumer.making_config import GeneratorConfig
from penstock.consumer.prompts.source import PromptSource
from penstock.consumer.step_flops import flops_per_step
from penstock.kernels.augment_recipe import AugmentRecipe

# Dosovitskiy et al. 2021 and timm: 17.58 G multiply-adds for a ViT-B/16 at 224 pixels.
VIT_B16_FLOPS = 2 * 17.58e9
ROWS = 8 * 2


def _config(**objective: Any) -> TrainConfig:
    return TrainConfig(
        groups_per_step=8,
        generator=GeneratorConfig(images_per_group=2, height=224, width=224),
        augment=AugmentRecipe(size=224),
        model=ModelConfig(name="vit-b-16"),
        objective=ObjectiveConfig(**objective),
    )


def _flops(config: TrainConfig, world_size: int = 1) -> float:
    source = cast(PromptSource, SimpleNamespace(concepts=("cat", "dog")))
    return flops_per_step(config, build_network(config, source, None), world_size)


def test_a_step_is_three_forward_passes_of_all_its_views() -> None:
    expected = 3 * ROWS * VIT_B16_FLOPS
    assert _flops(_config()) == pytest.approx(expected, rel=0.01)
    assert _flops(_config(), world_size=2) == pytest.approx(expected / 2, rel=0.01)


def test_a_batch_in_parts_goes_through_the_towers_once_more() -> None:
    config = replace(_config(), optimizer=OptimizerConfig(grad_accum_steps=2))
    assert _flops(config) == pytest.approx(4 * ROWS * VIT_B16_FLOPS, rel=0.01)
