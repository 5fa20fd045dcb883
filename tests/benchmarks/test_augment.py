"""The benchmarks of the augmentation and of the GPU run, small, and compare with what they say."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from penstock.kernels.augment import AugmentRecipe, augment, draw_params
from tests.kernels.goldens import SMALL, golden

pytestmark = pytest.mark.timeout(300)  # a compiler and an interpreter of kernels, on a busy machine

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
KORNIA = importlib.util.find_spec("kornia") is not None


def run(name: str, *options: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, env=os.environ | (env or {}))


def image_loop() -> ModuleType:
    spec = importlib.util.spec_from_file_location("image_loop", BENCHMARKS / "baselines" / "image_loop.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("group", [group for group in SMALL if group != "downsample"])
def test_the_image_loop_makes_torchvisions_views(group: str) -> None:
    """Were its arithmetic another, its speed would say nothing. It knows no downsample."""
    images, params, expected = golden(group)
    chosen = (params.downsample == 0).nonzero().squeeze(1)
    assert len(chosen)
    views = image_loop().augment_one_by_one(images[chosen], params.of(chosen))
    torch.testing.assert_close(views, expected[chosen], rtol=0, atol=2e-5)


def test_the_image_loop_makes_the_same_views_as_ours() -> None:
    images = torch.randint(0, 256, (24, 48, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    params = draw_params(AugmentRecipe.strong(32), 2, torch.arange(24), 0, 0, 48, 40)
    views = image_loop().augment_one_by_one(images, params)
    torch.testing.assert_close(views, augment(images, params, backend="reference"), rtol=0, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sides",
    [
        ("penstock", "image_loop"),
        pytest.param(
            ("penstock", "kornia"),
            marks=pytest.mark.skipif(not KORNIA, reason="kornia is not installed (make bench-setup)"),
        ),
    ],
)
def test_augment_compares_the_sides_that_it_is_given(sides: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    done = run("augment", "--sides", ",".join(sides), "--rounds", "1", "--images", "4", "--json", str(path))
    assert done.returncode == 0, done.stderr
    result = json.loads(path.read_text())
    for figures in (result, result["without_blur"]):
        ours, theirs = (figures[f"{side}_images_per_s"] for side in sides)
        assert figures[f"ratio_to_{sides[1]}"] == pytest.approx(ours / theirs)
        assert min(ours, theirs) > 0
        assert figures.get("meets_bar") == (ours / theirs >= 2 if "kornia" in sides else None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_ends_with_a_line_where_there_is_none() -> None:
    done = run("gpu")
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: no GPU: torch ")


@pytest.mark.slow
def test_gpu_runs_to_its_end_in_a_rehearsal(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    done = run("gpu", "--rehearse", "--budget", "200", "--json", str(path), env={"TRITON_INTERPRET": "1"})
    assert done.returncode == 0, done.stderr
    result = json.loads(path.read_text())
    assert result["rehearsal"] is True
    assert {"reference", "chunked"} <= result["augment"]["images_per_s"].keys()
    assert {"environment", "card", "not_measured", "loss"} <= result.keys()
    difference = result["augment"]["largest_difference_from_reference"]
    if importlib.util.find_spec("triton"):
        assert difference <= 2e-5
    else:
        assert difference is None
        assert "triton is not installed" in result["not_measured"]["augment triton"]


@pytest.mark.slow
def test_gpu_starts_nothing_when_its_time_is_used_up(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    done = run("gpu", "--rehearse", "--budget", "0", "--json", str(path))
    assert done.returncode == 0, done.stderr
    result = json.loads(path.read_text())
    assert result["augment"]["images_per_s"] == {}
    assert all("used up" in reason for reason in result["not_measured"].values())
