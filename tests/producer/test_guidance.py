"""Guidance of one row, written out again in float64."""

import numpy as np
import pytest
import torch

from penstock.producer.guidance import Guidance, GuidedRows


def test_every_row_has_its_own_weight_and_rescaling() -> None:
    rows = [Guidance(2.0), Guidance(7.5, rescale=0.7), Guidance(1.5, rescale=1.0)]
    generator = np.random.default_rng(0)
    prompted, empty = generator.standard_normal((2, 3, 4, 6, 5)).astype(np.float32)
    mixed = GuidedRows(rows, torch.device("cpu")).mix(torch.from_numpy(prompted), torch.from_numpy(empty)).numpy()
    for number, row in enumerate(rows):
        with_prompt, without = prompted[number].astype(np.float64), empty[number].astype(np.float64)
        plain = without + row.scale * (with_prompt - without)
        rescaled = plain * with_prompt.std(ddof=1) / plain.std(ddof=1)
        expected = row.rescale * rescaled + (1 - row.rescale) * plain
        assert np.allclose(mixed[number], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("start", "stop", "steps", "guided"),
    [
        (0.0, 1.0, 4, "1111"),
        (0.5, 1.0, 4, "0011"),
        (0.0, 0.5, 4, "1100"),
        (0.25, 0.75, 8, "00111100"),
        (0.3, 0.3, 4, "0000"),
    ],
)
def test_guidance_acts_where_its_interval_begins_and_not_where_it_ends(
    start: float, stop: float, steps: int, guided: str
) -> None:
    guidance = Guidance(3.0, start=start, stop=stop)
    assert [guidance.acts(step, steps) for step in range(steps)] == [mark == "1" for mark in guided]


@pytest.mark.parametrize("scale", [0.0, 0.99, 1.0])
def test_a_weight_of_one_or_less_never_acts(scale: float) -> None:
    assert not any(Guidance(scale).acts(step, 4) for step in range(4))
