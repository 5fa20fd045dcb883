"""Stochastic depth by its definition, and by what skipping a block must give."""

import pytest
import torch
from torch import Tensor
from transformers import ViTModel

from penstock.consumer.drop_path import DropPath, add_drop_path
from penstock.consumer.models import build_encoder

torch.set_num_threads(1)


def encoder(drop_path: float = 0.0, num_layers: int = 3) -> ViTModel:
    torch.manual_seed(0)
    return build_encoder(16, 8, 12, num_layers, 3, initializer_range=0.3, drop_path=drop_path)


def pixels(num_images: int = 4) -> Tensor:
    return torch.randn(num_images, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_rows_are_dropped_whole_and_the_mean_stays() -> None:
    torch.manual_seed(0)
    rows = DropPath(0.25)(torch.ones(20_000, 2, 3))
    assert torch.equal(rows, rows[:, :1, :1].expand_as(rows))
    assert rows.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    # 20,000 draws: the mean's standard deviation is sqrt(.25 / .75 / 20,000) = .004.
    assert rows.mean().item() == pytest.approx(1.0, abs=0.02)


def test_evaluation_skips_nothing() -> None:
    dropping, plain = encoder(0.5).eval(), encoder().eval()
    assert torch.equal(
        dropping(pixel_values=pixels()).last_hidden_state, plain(pixel_values=pixels()).last_hidden_state
    )


def test_a_block_that_is_always_skipped_might_as_well_not_be_there() -> None:
    dropping = encoder(1 - 1e-9, num_layers=2).train()
    shorter = encoder(num_layers=2)
    shorter.layers = shorter.layers[:1]
    torch.testing.assert_close(
        dropping(pixel_values=pixels()).last_hidden_state, shorter(pixel_values=pixels()).last_hidden_state
    )


def test_rates_grow_in_equal_steps_from_0() -> None:
    rates = [
        [module.rate for module in layer.modules() if isinstance(module, DropPath)]
        for layer in encoder(0.2, num_layers=5).layers
    ]
    assert all(len(set(found)) == 1 for found in rates)
    assert [found[0] for found in rates] == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2])


def test_names_of_weights_and_configuration_stay() -> None:
    dropping, plain = encoder(0.5), encoder()
    assert dropping.state_dict().keys() == plain.state_dict().keys()
    assert dropping.config.to_dict() == plain.config.to_dict()


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_rates_that_cannot_be_are_refused(rate: float) -> None:
    with pytest.raises(ValueError, match=rf"drop_path must be in \[0, 1\), got {rate}"):
        add_drop_path(encoder(), rate)
