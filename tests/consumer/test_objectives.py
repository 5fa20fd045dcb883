"""StableRep's objective; its loss is tested in tests/kernels/test_multipos_loss.py."""

import math

import pytest
import torch

from penstock.consumer.objectives import StableRep

torch.set_num_threads(1)


def test_images_of_one_prompt_are_positives_also_across_groups() -> None:
    # Groups 0 and 2 come from one prompt and lie on one axis, group 1 on the other. With e = exp(1 / 0.5):
    # the four rows lose log(3 e + 2) - 2 each, the two rows log(e + 4) - 2.
    axis_x, axis_y = [1.0, 0.0], [0.0, 1.0]
    embeddings = torch.tensor([axis_x, axis_x, axis_y, axis_y, axis_x, axis_x])
    loss = StableRep(temperature=0.5)(embeddings, torch.tensor([2**62 + 1, 2**62, 2**62 + 1]))
    e = math.exp(2)
    assert loss.item() == pytest.approx((4 * (math.log(3 * e + 2) - 2) + 2 * (math.log(e + 4) - 2)) / 6, rel=1e-6)


def test_default_temperature_is_the_papers() -> None:
    assert StableRep().temperature == 0.1


def test_rejects_bad_input() -> None:
    with pytest.raises(ValueError, match=r"temperature must be > 0, got 0\.0"):
        StableRep(temperature=0.0)
    with pytest.raises(ValueError, match="whole groups, got 5 rows for 2 prompt ids"):
        StableRep()(torch.zeros(5, 2), torch.tensor([1, 2]))
