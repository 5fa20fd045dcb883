"""Torch-TensorRT is called by names that its versions have, and its answers are checked; itself it is not here."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from penstock.producer.backends.compiler import TorchTensorRT, as_call
from penstock.producer.backends.exported import export_part
from penstock.producer.backends.options import TensorRTOptions
from penstock.producer.backends.part import Part
from penstock.producer.backends.signatures import call_named, require_named
from penstock.protocol.errors import ModelError
from tests.producer.backends.stand_in import Decoder, decoder_part
from tests.producer.backends.trt_wheels import VERSIONS, Recorder, needs_refit


def made(version: str = "2.13.0", **options: Any) -> tuple[TorchTensorRT, Recorder]:
    recorder = Recorder(version)
    return TorchTensorRT(TensorRTOptions(**options), recorder.library), recorder


@pytest.mark.parametrize("version", VERSIONS)
def test_every_keyword_is_a_named_parameter_of_every_version(version: str, tmp_path: Path) -> None:
    compiler, recorder = made(version)
    part = decoder_part()
    exported = export_part(part)
    recorder.results = {"load": exported}
    compiler.compile(exported, part, tmp_path / "timing")
    compiler.save(part.module, part, tmp_path / "engine")
    compiler.refit(compiler.load(tmp_path / "engine"), exported, part)
    assert [name for name, _ in recorder.calls] == ["dynamo.compile", "save", "load", "dynamo.refit_module_weights"]
    for _, arguments in recorder.calls:
        assert arguments.get("kwargs", {}) == {}  # nothing was swallowed


def test_what_is_compiled_is_one_refittable_engine_without_their_caches(tmp_path: Path) -> None:
    compiler, recorder = made(optimization_level=4)
    part = decoder_part()
    compiler.compile(export_part(part), part, tmp_path / "timing")
    told = recorder.calls[0][1]
    assert told["require_full_compilation"] is True
    assert told["min_block_size"] == 1
    assert told["immutable_weights"] is False
    assert told["cache_built_engines"] is told["reuse_cached_engines"] is False
    assert told["timing_cache_path"] == str(tmp_path / "timing")
    assert told["optimization_level"] == 4
    assert [tensor.shape for tensor in told["arg_inputs"]] == [(2, 4, 8, 8)]


@pytest.mark.parametrize(("version", "decomposed"), [("2.11.0", True), ("2.12.0", False), ("2.13.0", False)])
def test_attention_is_decomposed_where_its_converter_wants_equal_lengths(version: str, decomposed: bool) -> None:
    compiler, _ = made(version)
    assert compiler.settings(decoder_part())["decompose_attention"] is decomposed


def test_tf32_is_off_for_float32_alone() -> None:
    compiler, _ = made()
    half = Part("decoder", Decoder().half(), (torch.zeros(2, 4, 8, 8).half(),))
    assert compiler.settings(decoder_part())["disable_tf32"] is True
    assert compiler.settings(half)["disable_tf32"] is False


def test_parameters_that_compiling_moved_are_moved_back(tmp_path: Path) -> None:
    compiler, recorder = made(offload_module_to_cpu=True)
    part = decoder_part()
    # `deallocate_module` calls `.to` on a module that shares its parameters with the caller's; here it goes to float64,
    # because there is but one device.
    recorder.results = {"dynamo.compile": lambda told: told["exported_program"].module().double()}
    moved: list[Any] = []
    part.module.to = lambda device: moved.append(device)  # type: ignore[assignment,method-assign,func-returns-value]
    compiler.compile(export_part(part), part, tmp_path / "timing")
    assert next(part.module.parameters()).dtype == torch.float64  # shared indeed
    assert moved == [part.inputs[0].device]


def test_versions_are_those_of_the_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="11.0.0"))
    compiler, _ = made("2.12.0")
    found = compiler.versions()
    assert (found["torch_tensorrt"], found["tensorrt"]) == ("2.12.0", "11.0.0")
    assert set(found) == {"torch", "torch_tensorrt", "tensorrt", "diffusers"}


def test_a_part_that_is_not_on_a_gpu_is_refused() -> None:
    with pytest.raises(ModelError, match=r"needs a CUDA device, and part 'decoder' is on cpu; use backend eager there"):
        made()[0].export(decoder_part())


def test_a_file_that_the_library_takes_for_torchscript_is_refused(tmp_path: Path) -> None:
    compiler, recorder = made()
    recorder.results = {"load": nn.Identity()}
    with pytest.raises(ModelError, match=r"as a Identity, it must be an exported program"):
        compiler.load(tmp_path / "engine")


@pytest.mark.parametrize("method", ["compile", "save", "load", "refit"])
def test_what_the_library_raises_becomes_one_line(method: str, tmp_path: Path) -> None:
    compiler, recorder = made()
    part = decoder_part()
    exported = export_part(part)

    def fail(told: dict[str, Any]) -> None:
        raise AssertionError("no kernel\nand a page of more")

    recorder.results = dict.fromkeys(["dynamo.compile", "save", "load", "dynamo.refit_module_weights"], fail)
    calls = {
        "compile": lambda: compiler.compile(exported, part, tmp_path),
        "save": lambda: compiler.save(part.module, part, tmp_path),
        "load": lambda: compiler.load(tmp_path),
        "refit": lambda: compiler.refit(part.module, exported, part),
    }
    with pytest.raises(ModelError, match=rf"^TensorRT does not {method} .*: no kernel$"):
        calls[method]()


@pytest.mark.parametrize("version", ["2.13.0", "2.14.0"])
@pytest.mark.parametrize("name", ["enabled_precisions", "use_explicit_typing", "kwargs"])
def test_a_name_that_only_kwargs_would_take_is_refused(version: str, name: str) -> None:
    recorder = Recorder(version)
    with pytest.raises(ModelError, match=rf"compile as installed has no parameter {name} and would drop it in silence"):
        call_named(recorder.library.dynamo.compile, None, **{name: True})
    assert recorder.calls == []


def test_names_are_found_under_a_decorator_that_hides_them() -> None:
    @needs_refit
    def refit(compiled: Any, in_place: bool = False) -> None: ...

    require_named(refit, {"in_place": True})
    with pytest.raises(ModelError, match=r"refit as installed has no parameter verify"):
        require_named(refit, {"verify": True})


def test_a_tuple_of_one_becomes_its_tensor() -> None:
    class Tupled(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
            return (x,)

    x = torch.ones(2)
    assert as_call(Tupled())(x) is x
    assert as_call(nn.Identity())(x) is x
