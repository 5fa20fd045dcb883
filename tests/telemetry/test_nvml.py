"""Which GPU the figures are of, and that nothing which a driver, a container or a GPU lacks is an error."""

import sys

import pytest

from penstock.telemetry import nvml
from penstock.telemetry.nvml import GpuHealth, Nvml
from tests.telemetry.fake_nvml import FakeNvml, NVMLError


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    """Three GPUs."""
    made = FakeNvml()
    made.install(monkeypatch)
    return made


def test_the_figures_carry_their_units(fake: FakeNvml) -> None:
    assert Nvml({}).read(0) == GpuHealth(
        name="NVIDIA H200",
        utilisation_percent=97,
        memory_used_bytes=41_200_000_000,
        memory_total_bytes=150_754_820_096,
        power_w=612.345,
        temperature_c=64,
        sm_clock_mhz=1980,
    )


@pytest.mark.parametrize(
    ("listed", "index", "asked"),
    [
        (None, 2, "GPU-bb33-z"),
        ("2,0", 0, "GPU-bb33-z"),
        ("2,0", 1, "GPU-aa11-x"),
        (" 1 ", 0, "GPU-aa22-y"),
        ("GPU-bb33-z,GPU-aa11-x", 0, "GPU-bb33-z"),
        ("GPU-aa2", 0, "GPU-aa22-y"),
        ("MIG-7", 0, "MIG-7"),
    ],
)
def test_an_index_of_cuda_is_translated(fake: FakeNvml, listed: str | None, index: int, asked: str) -> None:
    assert Nvml({} if listed is None else {"CUDA_VISIBLE_DEVICES": listed}).read(index) is not None
    assert fake.asked == [asked]


@pytest.mark.parametrize(
    ("listed", "index", "why"),
    [
        (None, 3, "the driver has 3 GPUs, and CUDA_VISIBLE_DEVICES is not set"),
        ("", 0, "the driver has 3 GPUs, and CUDA_VISIBLE_DEVICES is ''"),
        ("1", 1, "the driver has 3 GPUs, and CUDA_VISIBLE_DEVICES is '1'"),
        ("GPU-aa", 0, "2 GPUs have an identifier that begins with GPU-aa"),
        ("GPU-ff", 0, "0 GPUs have an identifier that begins with GPU-ff"),
    ],
)
def test_a_gpu_that_is_not_there_has_no_figures(
    fake: FakeNvml, caplog: pytest.LogCaptureFixture, listed: str | None, index: int, why: str
) -> None:
    assert Nvml({} if listed is None else {"CUDA_VISIBLE_DEVICES": listed}).read(index) is None
    assert [record.getMessage() for record in caplog.records] == [f"no figures of cuda:{index}: {why}"]


def test_gpus_that_differ_are_told_apart_only_in_the_order_of_the_bus(
    fake: FakeNvml, caplog: pytest.LogCaptureFixture
) -> None:
    fake.names = ["NVIDIA T4", "NVIDIA H200", "NVIDIA H200"]
    assert Nvml({}).read(0) is None, "CUDA puts the fastest first"
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in caplog.text
    health = Nvml({"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}).read(0)
    assert health is not None
    assert health.name == "NVIDIA T4"
    by_name = Nvml({"CUDA_VISIBLE_DEVICES": "GPU-bb33-z"}).read(0)
    assert by_name is not None, "an identifier means one GPU in any order"


def test_what_a_gpu_does_not_tell_is_left_out(fake: FakeNvml) -> None:
    fake.names = [b"NVIDIA vGPU"] * 3  # older bindings answer in bytes
    fake.lacks = {"nvmlDeviceGetPowerUsage", "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetMemoryInfo"}
    health = Nvml({}).read(0)
    assert health is not None
    assert (health.power_w, health.utilisation_percent, health.memory_used_bytes) == (None, None, None)
    assert str(health) == "NVIDIA vGPU, 64 °C, SM clock 1980 MHz"


def test_a_gpu_that_falls_off_the_bus_is_said_once(fake: FakeNvml, caplog: pytest.LogCaptureFixture) -> None:
    reader = Nvml({})
    fake.fails["nvmlDeviceGetTemperature"] = NVMLError("GPU is lost")
    assert [reader.read(0), reader.read(0)] == [None, None]
    assert [record.getMessage() for record in caplog.records] == ["no figures of cuda:0: NVML says GPU is lost"]
    fake.fails.clear()
    assert reader.read(0) is not None


def test_without_the_binding_it_is_said_once_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    reader = Nvml({})
    assert [reader.read(0), reader.read(1)] == [None, None]
    assert [record.getMessage() for record in caplog.records] == [
        "no figures of GPUs: nvidia-ml-py is not installed (pip install -e '.[gpu]')"
    ]


@pytest.mark.parametrize("error", [NVMLError("Driver Not Loaded"), OSError("libnvidia-ml.so.1"), AttributeError("x")])
def test_a_library_that_does_not_open_is_no_error(fake: FakeNvml, error: Exception) -> None:
    fake.fails["nvmlInit"] = error
    reader = Nvml({})
    assert reader.read(0) is None
    assert reader.why_not == f"NVML says {error}"


def test_this_processs_own_gpus_are_read_by_a_function(fake: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml._of_this_process.cache_clear()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert nvml.read(0) is not None
    assert fake.asked == ["GPU-aa22-y"]
    nvml._of_this_process.cache_clear()
