"""Backends by name: what they need, and that what they compile is held against eager before it serves."""

import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from penstock.producer.backends.inductor import InductorBackend
from penstock.producer.backends.opening import open_backend
from penstock.producer.backends.part import Part
from penstock.producer.backends.verify import verify
from penstock.producer.config import ProduceConfig
from penstock.producer.engine import make
from penstock.producer.preparing import main as prepare
from penstock.producer.stable_diffusion import StableDiffusionEngine
from penstock.protocol.errors import ConfigError, ModelError
from tests.producer import folders
from tests.producer.engine_bench import config, equal, ticket

torch.set_num_threads(1)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache") / "penstock"
    monkeypatch.setenv("PENSTOCK_CACHE", str(folder))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    return folder


@pytest.mark.parametrize("backend", ["xformers", "tensorrt"])
def test_a_backend_for_gpus_says_so_on_a_cpu(backend: str) -> None:
    with pytest.raises(ModelError, match=f"backend {backend} needs a CUDA device, this is cpu"):
        open_backend(ProduceConfig(backend=backend), CPU)  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", ["xformers", "tensorrt"])
def test_a_library_that_is_not_installed_is_one_line(
    backend: str, pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.producer.loading._is_installed", lambda library: False)
    with pytest.raises(ModelError, match=r"is not installed; pip install -e '\.\[gpu\]'") as caught:
        StableDiffusionEngine(config(pipeline_folder, backend=backend))
    assert "\n" not in str(caught.value)


def test_inductor_says_where_its_compiler_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.producer.backends.inductor.cxx_compiler", lambda: None)
    with pytest.raises(ModelError, match="needs a C\\+\\+ compiler"):
        InductorBackend(CPU)


def test_inductor_keeps_its_work_where_nobody_else_can_write(cache: Path) -> None:
    InductorBackend(CPU)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(cache / "inductor")
    assert stat.S_IMODE((cache / "inductor").stat().st_mode) == 0o700
    cache.chmod(0o777)
    with pytest.raises(ModelError, match="can be written to by others"):
        InductorBackend(CPU)


@pytest.mark.parametrize("error", [1.05, float("nan")])
def test_what_is_compiled_wrongly_does_not_serve(
    error: float, pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda module, **how: lambda *inputs: error * module(*inputs))
    with pytest.raises(ModelError, match="denoiser"):
        StableDiffusionEngine(config(pipeline_folder, backend="inductor")).load()


def test_what_does_not_compile_is_one_line(pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*inputs: Any) -> Any:
        raise RuntimeError("no such instruction\nand a long tale")

    monkeypatch.setattr(torch, "compile", lambda module, **how: fail)
    with pytest.raises(ModelError, match=r"backend inductor does not compile the denoiser: no such instruction$"):
        StableDiffusionEngine(config(pipeline_folder, backend="inductor")).load()


@pytest.mark.slow
@pytest.mark.timeout(300)  # a C++ compiler for each kernel, on a busy machine
def test_compiled_networks_make_nearly_the_same_images_and_equal_bits_in_any_company(pipeline_folder: Path) -> None:
    compiled, eager = (StableDiffusionEngine(config(pipeline_folder, backend=name)) for name in ("inductor", "eager"))
    for engine in (compiled, eager):
        engine.load()
    assert compiled.manifest.digest != eager.manifest.digest
    tickets = [ticket(eager, index, num_inference_steps=2 + index) for index in range(3)]
    groups = make(compiled, tickets)
    for ours, theirs in zip(groups, make(eager, tickets), strict=True):
        assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1
    assert equal(groups, [make(compiled, [one])[0] for one in tickets])
    assert equal(groups[::-1], make(compiled, tickets[::-1]))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_any_number_of_sizes_compiles() -> None:
    class Scale(torch.nn.Module):
        def forward(self, sample: torch.Tensor) -> torch.Tensor:
            return 2 * sample

    module = Scale()
    # By itself it is eight, which the backend raises; each size takes a compiler seconds.
    with torch._dynamo.config.patch(recompile_limit=2):
        backend = InductorBackend(CPU)
        for width in range(4, 7):
            sample = torch.ones((2, width))
            assert torch.equal(backend.build(Part("decoder", module, (sample,)))(sample), 2 * sample)


def test_what_is_compiled_is_held_against_cudnn_as_it_serves(pipeline_folder: Path) -> None:
    enabled = []

    class Watch(torch.nn.Module):
        def forward(self, sample: torch.Tensor) -> torch.Tensor:
            enabled.append((torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32))
            return sample

    before = torch.backends.cudnn.allow_tf32
    verify(Part("decoder", Watch(), (torch.ones((2, 3)),)), lambda sample: sample)
    assert set(enabled) == {(True, False)}
    assert torch.backends.cudnn.allow_tf32 is before


def test_compile_goes_where_produce_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="backend inductor is for Stable Diffusion"):
        prepare(["--backend", "inductor", "--model", str(folders.make_sd3(tmp_path)), "--device", "cpu"])
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(ModelError, match="no such folder"):
        prepare(["--backend", "inductor", "--model", "/no/such/folder", "--threads", "2"])
    assert os.environ["OMP_NUM_THREADS"] == "2"
    assert threads == [2]


def test_compile_refuses_what_compiles_nothing() -> None:
    with pytest.raises(ConfigError, match="backend eager compiles nothing"):
        prepare(["--model", "tiny"])


@pytest.mark.parametrize(
    ("height", "width", "rule"),
    [
        ("0", "64", r"native_height and native_width must be 0 both or neither, got \(0, 64\)"),
        ("64", "0", r"native_height and native_width must be 0 both or neither, got \(64, 0\)"),
        ("4", "4", r"native_height must be 0 or in \[8, 8192\], got 4"),
    ],
)
def test_compile_refuses_half_a_size(height: str, width: str, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        prepare(["--backend", "inductor", "--native-height", height, "--native-width", width])


def test_compile_builds_the_models_own_size_and_the_one_that_is_asked_for(
    pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []

    def watch(module: Any, **how: Any) -> Any:
        def call(*inputs: torch.Tensor) -> Any:
            shapes.append(tuple(inputs[0].shape))
            return module(*inputs)

        return call

    monkeypatch.setattr(torch, "compile", watch)
    options = ["--backend", "inductor", "--model", str(pipeline_folder), "--device", "cpu", "--dtype", "float32"]
    options += ["--batch-images", "4", "--decode-images", "3"]
    assert prepare([*options, "--native-height", "32", "--native-width", "24"]) == 0
    assert set(shapes) == {(4, 4, 8, 8), (3, 4, 8, 8), (4, 4, 16, 12), (3, 4, 16, 12)}
