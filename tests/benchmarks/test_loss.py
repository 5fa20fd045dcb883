"""The benchmarks of the loss give no figures for a side that computes something else."""

import importlib
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from penstock.kernels.multipos_loss import multipos_loss

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def loss(benchmarks: None) -> ModuleType:
    return importlib.import_module("loss")


@pytest.fixture
def gpu_loss(benchmarks: None) -> ModuleType:
    return importlib.import_module("baselines.gpu_loss")


def test_gradients_of_one_length_may_still_differ(loss: ModuleType) -> None:
    gradient, losses = np.arange(12.0).reshape(4, 3), {"penstock": 1.0, "public": 1.0, "plain": 1.0}
    gradients = dict.fromkeys(losses, gradient * (1 + 1e-07))
    loss._must_agree(64, losses, gradients)
    for wrong in (gradient[::-1], -gradient, gradient * np.nan):
        with pytest.raises(loss.BenchmarkError, match=r"^gradient at N = 64 by penstock is off by .* of plain's"):
            loss._must_agree(64, losses, gradients | {"penstock": wrong})
    with pytest.raises(loss.BenchmarkError, match=r"^loss at N = 64 is 1\.01 by public but 1\.0 by plain$"):
        loss._must_agree(64, losses | {"public": 1.01}, gradients)


def test_a_way_that_computes_something_else_on_the_gpu_gets_a_reason_and_no_row(
    gpu_loss: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def same_loss_other_gradient(features: Tensor, labels: Tensor) -> Tensor:
        loss = right(features, labels)
        return loss + (features - features.detach()).sum()

    right = partial(multipos_loss, temperature=gpu_loss.TEMPERATURE)
    ways = {"right": right, "triton": right, "wrong": same_loss_other_gradient}
    ways["lower"] = partial(multipos_loss, temperature=0.2)
    monkeypatch.setattr(gpu_loss, "_ways", lambda: ways)
    session = importlib.import_module("baselines.gpu_timing").Session(torch.device("cpu"), 60.0)
    rows = gpu_loss._rows(session, "float32", 48, 1e9)
    assert [(row["way"], row["products"]) for row in rows] == [("right", "full float32"), ("triton", "3 x TF32")]
    assert set(session.not_measured) == {"loss float32 N=48 wrong", "loss float32 N=48 lower"}
    assert all(reason.startswith("computes something else: ") for reason in session.not_measured.values())
    for row in rows:
        seconds = row["ms"] / 1e3
        assert row["ratio_to_time_at_6n2d"] == pytest.approx(seconds / (6 * 48**2 * 256 / 1e9))
        assert row["ratio_to_time_at_4n2d"] == pytest.approx(seconds / (4 * 48**2 * 256 / 1e9))
