"""The whole way of a part through store, compiler and verification, with a compiler that stands in for TensorRT."""

import logging
import multiprocessing
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.producer.backends.engine_store import EngineStore
from penstock.producer.backends.part import Part
from penstock.producer.backends.tensorrt import TensorRTBackend
from penstock.protocol.errors import ConfigError, ModelError
from tests.producer.backends.stand_in import (
    StandInCompiler,
    backend,
    build_in_process,
    decoder_part,
    denoiser_part,
)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def compiler(tmp_path: Path) -> StandInCompiler:
    return StandInCompiler(tmp_path / "log")


def stored(cache: Path, name: str) -> Path:
    """The one file of that name in the store."""
    found = list(cache.glob(f"engines/*/{name}"))
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("part", [decoder_part(), denoiser_part(), denoiser_part(added=False)])
def test_a_built_part_computes_what_its_module_computes(cache: Path, compiler: StandInCompiler, part: Part) -> None:
    call = backend(cache, compiler).build(part)
    noise = tuple(torch.randn(tensor.shape) for tensor in part.inputs)
    torch.testing.assert_close(call(*noise), part.module(*noise))


def test_a_second_producer_loads_and_does_not_compile(cache: Path, compiler: StandInCompiler) -> None:
    backend(cache, compiler).build(decoder_part())
    call = backend(cache, compiler).build(decoder_part())
    assert compiler.done == ["compile", "save", "load"]
    noise = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(call(noise), decoder_part().module(noise))


def test_other_weights_are_refitted_and_kept(cache: Path, compiler: StandInCompiler) -> None:
    backend(cache, compiler).build(decoder_part())
    tuned = decoder_part(seed=1)
    call = backend(cache, compiler).build(tuned)
    assert compiler.done == ["compile", "save", "load", "refit", "save"]
    noise = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(call(noise), tuned.module(noise))
    backend(cache, compiler).build(tuned)
    assert compiler.done[5:] == ["load"]
    assert len(list(cache.glob("engines/*/manifest.json"))) == 1


@pytest.mark.parametrize(
    "other",
    [
        lambda: decoder_part(width=8),
        lambda: decoder_part(stride=2),
        lambda: decoder_part(slope=0.2),
        lambda: Part("decoder", decoder_part().module, (torch.zeros(3, 4, 8, 8),)),
        lambda: Part("decoder", decoder_part().module, (torch.zeros(2, 4, 8, 16),)),
        lambda: Part("decoder", decoder_part().module.bfloat16(), (torch.zeros(2, 4, 8, 8).bfloat16(),)),
        lambda: Part("another", decoder_part().module, decoder_part().inputs),
    ],
    ids=["width", "stride", "constant", "batch", "size", "dtype", "name"],
)
def test_another_part_is_another_engine(cache: Path, compiler: StandInCompiler, other: Callable[[], Part]) -> None:
    backend(cache, compiler).build(decoder_part())
    backend(cache, compiler).build(other())
    assert compiler.done == ["compile", "save"] * 2
    assert len(list(cache.glob("engines/*/manifest.json"))) == 2


def test_other_settings_are_another_engine(cache: Path, tmp_path: Path) -> None:
    first, second = (StandInCompiler(tmp_path / "log", level=level) for level in (3, 5))
    backend(cache, first).build(decoder_part())
    backend(cache, second).build(decoder_part())
    assert first.done == ["compile", "save"] * 2


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def of_another_machine(path: Path) -> None:
    path.write_text(path.read_text().replace('"gpu": "', '"gpu": "another '))


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("engine.pt2", flip_a_byte, "its SHA-256 is not that of its manifest"),
        ("engine.pt2", lambda path: path.write_bytes(b""), "its SHA-256 is not that of its manifest"),
        ("engine.pt2", Path.unlink, "No such file"),
        ("manifest.json", Path.unlink, "No such file"),
        ("manifest.json", lambda path: path.write_text("{"), "Expecting property name"),
        ("manifest.json", lambda path: path.write_text("[]"), "indices must be integers"),
        ("manifest.json", lambda path: path.write_text("{}"), "'format'"),
        ("manifest.json", lambda path: path.write_bytes(b"\xff"), "can't decode"),
        ("manifest.json", of_another_machine, "describes another engine"),
    ],
)
def test_what_is_damaged_or_foreign_is_compiled_anew_with_a_warning(
    cache: Path,
    compiler: StandInCompiler,
    caplog: pytest.LogCaptureFixture,
    name: str,
    damage: Callable[[Path], Any],
    said: str,
) -> None:
    backend(cache, compiler).build(decoder_part())
    damage(stored(cache, name))
    caplog.set_level(logging.WARNING)
    backend(cache, compiler).build(decoder_part())
    assert compiler.done == ["compile", "save"] * 2  # never loaded: an engine file is code
    assert said in caplog.text
    backend(cache, compiler).build(decoder_part())
    assert compiler.done[4:] == ["load"]


@pytest.mark.parametrize("trouble", ["load", "refit", "wrong"])
def test_a_refit_that_fails_or_is_wrong_is_compiled_instead(
    cache: Path, compiler: StandInCompiler, caplog: pytest.LogCaptureFixture, trouble: str
) -> None:
    backend(cache, compiler).build(decoder_part())
    compiler.broken = {trouble}
    tuned = decoder_part(seed=1)
    call = backend(cache, compiler).build(tuned)
    assert compiler.done[-2:] == ["compile", "save"]
    assert "cannot be refitted, compiling it anew" in caplog.text
    noise = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(call(noise), tuned.module(noise))


def test_an_engine_that_cannot_be_kept_is_used_all_the_same(
    cache: Path, compiler: StandInCompiler, caplog: pytest.LogCaptureFixture
) -> None:
    compiler.broken = {"save"}
    call = backend(cache, compiler).build(decoder_part())
    assert call(torch.zeros(2, 4, 8, 8)).shape == (2, 3, 8, 8)
    assert "is not kept in" in caplog.text
    assert not [path for path in (cache / "engines").iterdir() if path.is_dir()]


def test_a_compiler_that_fails_is_an_error_and_leaves_nothing(cache: Path, compiler: StandInCompiler) -> None:
    compiler.broken = {"compile"}
    with pytest.raises(ModelError, match=r"cannot compile"):
        backend(cache, compiler).build(decoder_part())
    assert not list(cache.glob("engines/*/"))


def test_an_engine_that_differs_from_its_module_is_refused_and_not_kept(cache: Path, tmp_path: Path) -> None:
    class Scaled(StandInCompiler):
        def compile(self, exported: Any, part: Part, timing_cache: Path) -> torch.nn.Module:
            engine = super().compile(exported, part, timing_cache)
            engine.get_submodule("head").weight.mul_(1.01)
            return engine

    with pytest.raises(ModelError, match=r"part 'decoder' as built differs from its module in torch.float32"):
        backend(cache, Scaled(tmp_path / "log")).build(decoder_part())
    assert not list(cache.glob("engines/*/"))


def test_of_two_processes_one_compiles_and_the_other_loads(cache: Path, compiler: StandInCompiler) -> None:
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(2)
    processes = [spawn.Process(target=build_in_process, args=(cache, barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(90)
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(compiler.done) == ["compile", "load", "save"]


def test_what_a_killed_writer_left_is_swept_away(cache: Path, compiler: StandInCompiler) -> None:
    backend(cache, compiler).build(decoder_part())
    engine = stored(cache, "engine.pt2")
    left = engine.parent.with_name(f".{engine.parent.name}-killed")
    left.mkdir()
    engine.unlink()
    backend(cache, compiler).build(decoder_part())
    assert not left.exists()


def test_timings_outlive_the_compilation_and_are_used_by_the_next(cache: Path, compiler: StandInCompiler) -> None:
    backend(cache, compiler).build(decoder_part())
    backend(cache, compiler).build(decoder_part(width=8))
    (timings,) = cache.glob("engines/timing-*.cache")
    assert timings.read_bytes() == b"tt"


def test_the_cache_is_made_private(cache: Path, compiler: StandInCompiler) -> None:
    backend(cache, compiler).build(decoder_part())
    for folder in (cache, cache / "engines", stored(cache, "engine.pt2").parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_cache_that_others_can_write_to_is_refused(cache: Path, mode: int) -> None:
    cache.mkdir()
    cache.chmod(mode)
    with pytest.raises(ModelError, match=rf"can be written to by others \(mode {mode:o}\); chmod 700 it"):
        EngineStore(cache)


def test_an_engine_folder_that_others_can_write_to_is_refused(cache: Path, compiler: StandInCompiler) -> None:
    backend(cache, compiler).build(decoder_part())
    stored(cache, "engine.pt2").parent.chmod(0o777)
    with pytest.raises(ModelError, match=r"can be written to by others"):
        backend(cache, compiler).build(decoder_part())
    assert "load" not in compiler.done


def test_the_environment_names_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path / "named"))
    EngineStore()
    assert (tmp_path / "named" / "engines").is_dir()
    monkeypatch.delenv("PENSTOCK_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    EngineStore()
    assert (tmp_path / ".cache" / "penstock" / "engines").is_dir()


def test_a_cache_that_cannot_be_made_names_the_variable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match=r"cannot be made: .*; set PENSTOCK_CACHE"):
        EngineStore(tmp_path / "file" / "cache")


def test_without_torch_tensorrt_one_line_says_what_to_install(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"needs the package torch_tensorrt, .* pip install -e '\.\[gpu\]'"):
        TensorRTBackend(store=EngineStore(cache))


def test_fp8_without_calibration_or_modelopt_is_one_line(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"fp8 needs calibration inputs for part 'decoder'"):
        backend(cache, fp8=True).build(decoder_part())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    made = backend(cache, fp8=True)
    made._calibration = lambda part: [part.inputs]
    with pytest.raises(ModelError, match=r"pip install nvidia-modelopt"):
        made.build(decoder_part())


@pytest.mark.parametrize(
    ("options", "said"),
    [({"optimization_level": 6}, "optimization_level must be in"), ({"tolerance": 0.0}, "tolerance must be in")],
)
def test_options_out_of_range_are_refused(cache: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        backend(cache, **options)
