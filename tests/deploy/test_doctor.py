"""The doctor says what is wrong and what to do; a wrong diagnosis would be worse than none."""

import json
import socket
import sys
from importlib import metadata
from pathlib import Path

import pytest

from penstock.deploy import doctor
from penstock.deploy.doctor import Check
from penstock.telemetry import machine
from tests.telemetry.fake_nvml import FakeNvml


def find(name: str, port: int = 0) -> Check:
    return next(check for check in doctor.examine(port) if check.name == name)


def absent(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    """Make packages look as if they were not installed."""
    version = metadata.version

    def fake(name: str) -> str:
        if name in missing:
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", fake)


def test_an_installed_package_is_shown_with_its_version() -> None:
    assert find("numpy") == Check("Installed", "numpy", "ok", metadata.version("numpy"))


def test_what_only_an_extra_needs_is_not_required() -> None:
    assert "pytest" not in {check.name for check in doctor.examine(0)}


def test_a_missing_package_stops_the_demo_and_has_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    absent(monkeypatch, "torch")
    assert find("torch").state == "missing"
    assert "make setup" in find("torch").advice
    eager = find("eager")
    assert (eager.state, eager.detail) == ("missing", "no: torch is not installed")
    assert not doctor.healthy(doctor.examine(0))


def test_a_package_too_old_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda _: ["torch>=99.0"])
    assert find("torch").state == "missing"
    assert find("torch").detail.endswith("needs >=99.0")


def test_without_a_gpu_the_gpu_backends_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "nvidia_gpus", list)
    absent(monkeypatch, "xformers", "torch-tensorrt", "tensorrt")
    assert find("xformers").detail.startswith("no: xformers is not installed, no NVIDIA GPU")
    assert find("tensorrt").state == "note"
    assert find("tensorrt").advice == ""  # nothing to install: it could not run


def test_with_a_gpu_a_cpu_build_of_torch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "nvidia_gpus", lambda: ["NVIDIA H200, 143771 MiB, driver 570.86"])
    monkeypatch.setattr(doctor, "_torch_cuda", lambda: None)
    absent(monkeypatch, "xformers")
    assert "torch is a CPU build" in find("xformers").detail
    assert "'.[gpu]'" in find("xformers").advice


def test_with_a_gpu_it_says_whether_nvml_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "nvidia_gpus", list)
    assert "NVML" not in {check.name for check in doctor.examine(0)}
    monkeypatch.setattr(machine, "nvidia_gpus", lambda: ["NVIDIA H200, 143771 MiB, driver 570.86"])
    FakeNvml().install(monkeypatch)
    assert (find("NVML").state, find("NVML").advice) == ("ok", "")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert (find("NVML").state, find("NVML").advice) == ("note", "pip install -e '.[gpu]'")
    assert find("NVML").detail == "no: nvidia-ml-py is not installed"


@pytest.mark.parametrize(
    ("text", "cuda"),
    [
        ("from typing import Optional\ncuda: Optional[str] = '12.8'\nhip: Optional[str] = None\n", "12.8"),
        ("cuda: Optional[str] = None\n", None),
        ("cuda = '13.0'\n", "13.0"),
    ],
)
def test_the_cuda_build_is_read_from_torchs_version_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, cuda: str | None
) -> None:
    (tmp_path / "version.py").write_text(text)
    monkeypatch.setattr(doctor, "_folder_of", lambda _: tmp_path)
    assert doctor._torch_cuda() == cuda


def test_inductor_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cxx_compiler", lambda: None)
    assert "no C++ compiler" in find("inductor").detail


def test_the_tiny_model_is_whole_only_with_the_weights_of_each_part(tmp_path: Path) -> None:
    assert doctor.tiny_model(tmp_path).state == "missing"
    parts = ("text_encoder", "unet", "vae")
    (tmp_path / "model_index.json").write_text(json.dumps({part: ["diffusers", "X"] for part in parts}))
    for part in parts:
        assert part in doctor.tiny_model(tmp_path).detail
        (tmp_path / part).mkdir()
        (tmp_path / part / "model.safetensors").write_bytes(bytes(500_000))
    assert doctor.tiny_model(tmp_path).state == "ok"
    assert doctor.tiny_model(tmp_path).detail.startswith("1.5 MB")


def test_a_port_in_use_is_said_and_a_free_one_too() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        assert doctor.try_port(port).state == "note"
        assert "--stream.endpoint" in doctor.try_port(port).advice
    assert doctor.try_port(port).detail == "free"


def test_json_and_text_tell_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    code = doctor.main(["--json", "--port", "0"])
    found = json.loads(capsys.readouterr().out)
    assert code == (0 if found["healthy"] else 1)
    assert found["schema_version"] == 1
    assert set(found["checks"][0]) == {"group", "name", "state", "detail", "advice"}
    doctor.main(["--port", "0"])
    text = capsys.readouterr().out
    assert all(check["name"] in text for check in found["checks"])
    assert "\x1b" not in text


def test_advice_stands_under_what_to_do() -> None:
    text = doctor.as_text([Check("Machine", "cores", "note", "1 usable", "give it two")])
    assert text.endswith("What to do\n  cores: give it two\n\n`penstock demo` can run here.")


@pytest.mark.parametrize("argv", [["--port", "x"], ["--port", "70000"], ["--jsn"]])
def test_bad_flags_end_with_status_2(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        doctor.main(argv)
    assert caught.value.code == 2


def test_keys_need_a_libzmq_that_was_built_with_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    import zmq

    assert doctor.try_keys().state == "ok"
    monkeypatch.setattr(zmq, "has", lambda what: what != "curve")
    assert doctor.try_keys().state == "note"
    assert "install pyzmq" in doctor.try_keys().advice
