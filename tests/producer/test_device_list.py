"""What `--devices` means on machines that the test makes up."""

import pytest

from penstock.producer.device_list import find_devices
from penstock.protocol.errors import ConfigError
from penstock.telemetry import machine

RULE = "devices must be `all` or a list such as 0,2,5 or 0-3,6 or cuda:0,cuda:1 or cpu,cpu"


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    """So many GPUs are in the machine."""
    number: int = request.param
    monkeypatch.setattr(machine, "nvidia_gpus", lambda: ["NVIDIA H200, 143771 MiB, driver 570.86"] * number)
    return number


@pytest.mark.parametrize(
    ("gpus", "listed", "text", "devices"),
    [
        (2, None, "all", ["cuda:0", "cuda:1"]),
        (8, "3,5", "all", ["cuda:0", "cuda:1"]),
        (8, "GPU-aa,GPU-bb,GPU-cc", "all", ["cuda:0", "cuda:1", "cuda:2"]),
        (0, "0,1", "all", ["cuda:0", "cuda:1"]),
        (8, None, "0,2,5", ["cuda:0", "cuda:2", "cuda:5"]),
        (8, None, "5, 0-2", ["cuda:5", "cuda:0", "cuda:1", "cuda:2"]),
        (2, None, "cuda:1, cuda:0", ["cuda:1", "cuda:0"]),
        (2, None, "1,cpu", ["cuda:1", "cpu"]),
        (0, None, "cpu,cpu", ["cpu", "cpu"]),
    ],
    indirect=["gpus"],
)
def test_a_list_names_devices_as_torch_does(gpus: int, listed: str | None, text: str, devices: list[str]) -> None:
    assert find_devices(text, {} if listed is None else {"CUDA_VISIBLE_DEVICES": listed}) == devices


@pytest.mark.parametrize("gpus", [0], indirect=True)
def test_without_nvidia_smi_a_number_is_believed_where_a_driver_is(gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "may_have_gpus", lambda: True)
    assert find_devices("0,1", {}) == ["cuda:0", "cuda:1"]
    monkeypatch.setattr(machine, "may_have_gpus", lambda: False)
    with pytest.raises(ConfigError, match="devices names cuda:0, and no GPU is visible here; cpu is a device, too"):
        find_devices("0,1", {})


@pytest.mark.parametrize(
    ("gpus", "listed", "text", "error"),
    [
        (0, None, "all", "devices is `all`, and no GPU is visible here; name the devices, as in --devices cpu"),
        (
            2,
            "",
            "all",
            "devices is `all`, and no GPU is visible here (CUDA_VISIBLE_DEVICES is ''); "
            "name the devices, as in --devices cpu",
        ),
        (2, None, "0,2", "devices names cuda:2, and 2 GPUs are visible here"),
        (8, "4", "cuda:4", "devices names cuda:4, and 1 GPU is visible here (CUDA_VISIBLE_DEVICES is '4')"),
        (2, None, "0,cuda:0", "devices must name a GPU once, got '0,cuda:0'"),
        *(
            (
                2,
                None,
                text,
                f"devices must be `all` or a list such as 0,2,5 or 0-3,6 or cuda:0,cuda:1 or cpu,cpu, got {text!r}",
            )
            for text in ("0,,1", "cuda", "gpu:0", "all,cpu", "-1", "0 1", ",", "auto")
        ),
    ],
    indirect=["gpus"],
)
def test_a_bad_list_is_refused_in_one_line(gpus: int, listed: str | None, text: str, error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find_devices(text, {} if listed is None else {"CUDA_VISIBLE_DEVICES": listed})
    assert str(caught.value) == error
