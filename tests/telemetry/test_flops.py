"""Counting and measuring arithmetic leaves no trace: a run with metrics must go as one without."""

import torch
from torch import nn

from penstock.telemetry.flops import count_flops, matrix_flops_per_s


def _network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(4 * 36, 2))


def test_products_and_sums_are_counted_for_every_row() -> None:
    # 36 places of 4 filters of 27 weights, and 2 outputs of 144.
    assert count_flops(_network(), (torch.empty(5, 3, 8, 8),)) == 5 * 2 * (36 * 4 * 27 + 2 * 144)


def test_a_network_is_left_as_it_was() -> None:
    network = _network()
    network[2].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    count_flops(network, (torch.empty(1, 3, 8, 8),))
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert [part.training for part in network] == [True, True, False, True, True]


def test_what_is_drawn_next_is_what_would_have_been_drawn() -> None:
    network, before = _network(), torch.get_rng_state()
    count_flops(network, (torch.empty(1, 3, 8, 8),))
    assert matrix_flops_per_s(torch.device("cpu"), torch.float32) > 0
    assert torch.equal(torch.get_rng_state(), before)
