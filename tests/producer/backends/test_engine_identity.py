"""What makes an engine another engine, field by field, and what the digest of a graph tells apart."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from penstock.producer.backends.engine_store import EngineIdentity
from penstock.producer.backends.exported import architecture_digest, export_part, weights_digest
from penstock.producer.backends.part import Part

IDENTITY = EngineIdentity(
    part="denoiser",
    architecture="a" * 64,
    inputs=["float16[2, 4, 64, 64] cuda:0", "float32[2] cuda:0"],
    settings={"optimization_level": 3, "use_fp32_acc": True, "fp8": False},
    gpu="NVIDIA H100 80GB HBM3",
    capability="9.0",
    versions={"torch": "2.13.0", "torch_tensorrt": "2.13.0", "tensorrt": "11.0.0", "diffusers": "0.42.1"},
)


@pytest.mark.parametrize(
    "change",
    [
        {"part": "decoder"},
        {"architecture": "b" * 64},
        {"inputs": ["float16[4, 4, 64, 64] cuda:0", "float32[2] cuda:0"]},
        {"inputs": ["bfloat16[2, 4, 64, 64] cuda:0", "float32[2] cuda:0"]},
        {"inputs": ["float16[2, 4, 64, 64] cuda:1", "float32[2] cuda:0"]},
        {"settings": {**IDENTITY.settings, "optimization_level": 4}},
        {"settings": {**IDENTITY.settings, "use_fp32_acc": False}},
        {"settings": {**IDENTITY.settings, "fp8": True}},
        {"gpu": "NVIDIA H200"},
        {"capability": "9.1"},
        *({"versions": {**IDENTITY.versions, name: "9"}} for name in IDENTITY.versions),
    ],
    ids=str,
)
def test_every_ingredient_changes_the_key(change: dict[str, Any]) -> None:
    assert replace(IDENTITY, **change).key != IDENTITY.key


def test_the_order_of_mappings_does_not_change_the_key() -> None:
    turned = dict(reversed(IDENTITY.versions.items()))
    assert replace(IDENTITY, versions=turned).key == IDENTITY.key


class Net(nn.Module):
    def __init__(self, conv: nn.Module, *, swap: bool = False) -> None:
        super().__init__()
        self.conv = conv
        self.swap = swap
        self.a, self.b = (nn.Parameter(torch.full((1,), value)) for value in (2.0, 3.0))
        self.register_buffer("shift", torch.tensor([0.5]))
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        first, second = (self.b, self.a) if self.swap else (self.a, self.b)
        return x * first - second + self.shift


def exported(conv: nn.Module, *, swap: bool = False, size: int = 8) -> torch.export.ExportedProgram:
    return export_part(Part("decoder", Net(conv, swap=swap), (torch.zeros(2, 4, size, size),)))


BASE = {"in_channels": 4, "out_channels": 4, "kernel_size": 3, "padding": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"stride": 2},
        {"dilation": 2, "padding": 2},
        {"padding": 0},
        {"groups": 2},
        {"out_channels": 8},
        {"kernel_size": 1, "padding": 0},
        {"bias": False},
    ],
    ids=str,
)
def test_the_architecture_tells_arguments_apart(change: dict[str, Any]) -> None:
    base, other = exported(nn.Conv2d(**BASE)), exported(nn.Conv2d(**{**BASE, **change}))
    assert architecture_digest(base) != architecture_digest(other)


def test_the_architecture_tells_crossed_wires_and_sizes_apart() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(**BASE)
    digests = {
        architecture_digest(made) for made in (exported(conv), exported(conv, swap=True), exported(conv, size=9))
    }
    assert len(digests) == 3


def test_weights_and_architecture_are_digested_apart() -> None:
    torch.manual_seed(0)
    first, second = exported(nn.Conv2d(**BASE)), exported(nn.Conv2d(**BASE))
    assert architecture_digest(first) == architecture_digest(second)
    assert weights_digest(first) != weights_digest(second)


@pytest.mark.parametrize("name", ["conv.weight", "conv.bias", "a", "shift"])
def test_one_bit_of_any_weight_or_buffer_changes_the_digest(name: str) -> None:
    torch.manual_seed(0)
    made = exported(nn.Conv2d(**BASE))
    before = weights_digest(made)
    made.state_dict[name].view(torch.int32).view(-1)[0] ^= 1
    assert weights_digest(made) != before


def test_the_digest_of_weights_knows_half_precision_and_layouts() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(**BASE)
    nchw = weights_digest(exported(conv))
    assert weights_digest(exported(conv.to(memory_format=torch.channels_last))) == nchw
    half = export_part(Part("decoder", Net(conv).bfloat16(), (torch.zeros(2, 4, 8, 8, dtype=torch.bfloat16),)))
    assert weights_digest(half) != nchw
