"""Sine-cosine positions: the grid can be read from them, and training starts from them."""

import math

import pytest
import torch

from penstock.consumer.models import build_encoder
from penstock.consumer.positions import sincos_grid, start_from_sincos


def test_each_place_is_told_apart_by_its_row_and_its_column() -> None:
    grid = sincos_grid(4, 32)
    distances = torch.cdist(grid, grid)
    assert grid.shape == (16, 32)
    assert (distances + torch.eye(16) > 0.1).all()
    columns, rows = grid[:, :16].reshape(4, 4, 16), grid[:, 16:].reshape(4, 4, 16)
    assert torch.equal(columns[0], columns[3])
    assert torch.equal(rows[:, 0], rows[:, 3])


def test_the_shortest_wavelength_is_the_width_of_the_image() -> None:
    first_sine = sincos_grid(8, 16).reshape(8, 8, 16)[0, :, 0]
    expected = [0.5 * math.sin(2 * math.pi * column / 8) for column in range(8)]
    assert first_sine.tolist() == pytest.approx(expected, abs=1e-6)


def test_a_width_that_cannot_be_quartered_is_refused() -> None:
    with pytest.raises(ValueError, match=r"hidden_size must be a multiple of 4 .* got 30"):
        sincos_grid(4, 30)


def test_the_encoder_starts_from_the_grid_and_can_move_it() -> None:
    encoder = build_encoder(32, 8, 32, 1, 4)
    class_token = encoder.embeddings.position_embeddings[0, 0].clone()
    start_from_sincos(encoder)
    positions = encoder.embeddings.position_embeddings
    assert torch.equal(positions[0, 1:], sincos_grid(4, 32))
    assert torch.equal(positions[0, 0], class_token)
    assert positions.requires_grad
