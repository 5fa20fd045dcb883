"""Which process gets which GPU, on machines that the test makes up."""

import pytest

from penstock.deploy.up_config import UpConfig
from penstock.deploy.up_devices import divide
from penstock.producer.config import ProduceConfig
from penstock.protocol.errors import ConfigError
from penstock.telemetry import machine


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    """So many GPUs are in the machine."""
    number: int = request.param
    monkeypatch.setattr(machine, "nvidia_gpus", lambda: ["NVIDIA H200, 143771 MiB, driver 570.86"] * number)
    return number


def of(text: str) -> list[str]:
    """`0 1` as torch names them; what is no number stays; `-` is none of up's."""
    return [f"cuda:{word}" if word.isdigit() else "" if word == "-" else word for word in text.split()]


@pytest.mark.parametrize(
    ("gpus", "asked", "device", "ranks", "producers"),
    [
        # As listed: a process for each device, whatever the numbers say.
        (8, {"producer_devices": "0-5", "trainer_devices": "6,7"}, "auto", "6 7", "0 1 2 3 4 5"),
        (8, {"producer_devices": "7,0", "trainer_devices": "cpu"}, "auto", "cpu", "7 0"),
        (2, {"producer_devices": "cpu,cpu", "trainer_devices": "0-1", "producers": 9}, "cuda:1", "0 1", "cpu cpu"),
        (1, {"producer_devices": "0", "trainer_devices": "0", "share_gpus": True}, "auto", "0", "0"),
        # Not listed: the ranks have the last ones, the producers the first ones of the others.
        (8, {"producers": 6, "ranks": 2}, "auto", "6 7", "0 1 2 3 4 5"),
        (8, {"producers": 2, "ranks": 1}, "cuda", "7", "0 1"),
        (8, {"producers": 2, "trainer_devices": "0,1"}, "auto", "0 1", "2 3"),
        (4, {"producer_devices": "2,3", "ranks": 1}, "auto", "1", "2 3"),
        (4, {"producer_devices": "all", "trainer_devices": "cpu,cpu"}, "auto", "cpu cpu", "0 1 2 3"),
        # Producers whose settings name a device keep it.
        (1, {"producers": 3, "ranks": 1}, "cpu", "0", "- - -"),
        (2, {"producers": 1, "ranks": 1}, "cuda:1", "1", "-"),
        # No GPU.
        (0, {"producers": 2, "ranks": 2}, "auto", "cpu cpu", "- -"),
        (0, {"producers": 0, "ranks": 1}, "auto", "cpu", ""),
    ],
    indirect=["gpus"],
)
def test_every_process_gets_a_device(
    gpus: int, asked: dict[str, object], device: str, ranks: str, producers: str
) -> None:
    made = divide(UpConfig(**asked), ProduceConfig(device=device), {})  # type: ignore[arg-type]
    assert (list(made.ranks), list(made.producers)) == (of(ranks), of(producers))


@pytest.mark.parametrize(
    ("gpus", "asked", "error"),
    [
        (8, {"producer_devices": "0-6", "trainer_devices": "6,7"}, "cuda:6 is in trainer_devices and in producer_de"),
        (8, {"producer_devices": "all", "ranks": 1}, "1 ranks want a GPU each, and 0 are free; say what goes where"),
        (8, {"producer_devices": "0-8"}, "producer_devices names cuda:8, and 8 GPUs are visible here"),
        (8, {"trainer_devices": "7,7"}, "trainer_devices must name a GPU once, got '7,7'"),
        (8, {"trainer_devices": "7,cpu"}, "trainer_devices must be GPUs or cpu, not both, got '7,cpu'"),
        (8, {"trainer_devices": "six"}, "trainer_devices must be `all` or a list such as 0,2,5"),
        (1, {}, "1 ranks and 1 producers want a GPU each, and 1 are free; say what goes where \\(--trainer-devices"),
        (2, {"trainer_devices": "0", "producers": 2}, "2 producers want a GPU each, and 1 are free; say what goes"),
    ],
    indirect=["gpus"],
)
def test_a_division_that_cannot_be_is_refused(gpus: int, asked: dict[str, object], error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        divide(UpConfig(**asked), ProduceConfig(), {})  # type: ignore[arg-type]


@pytest.mark.parametrize("gpus", [8], indirect=True)
def test_what_cuda_sees_here_is_what_counts(gpus: int) -> None:
    environ = {"CUDA_VISIBLE_DEVICES": "5,3,1"}
    made = divide(UpConfig(producers=2), ProduceConfig(), environ)
    assert (made.ranks, made.producers) == (["cuda:2"], ["cuda:0", "cuda:1"])
    assert made.visible(made.producers) == "5,3"
    assert made.visible(made.ranks) == "1"
    assert made.visible(["cpu"]) == ""
    by_name = divide(UpConfig(), ProduceConfig(), {"CUDA_VISIBLE_DEVICES": "GPU-aa,GPU-bb"})
    assert (by_name.visible(by_name.ranks), by_name.visible(by_name.producers)) == ("GPU-bb", "GPU-aa")
