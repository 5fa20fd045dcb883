"""What the parent decides for all its producers, with scripts in their place and the time in the test's hand."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence

import pytest

from penstock.config.address import Address
from penstock.producer import device_fleet
from penstock.producer.config import ProduceConfig
from penstock.producer.device_child import ChildState
from penstock.producer.device_fleet import DeviceFleet, command, share_of_cores, tell_health, worst
from penstock.protocol.errors import ConfigError
from penstock.telemetry import nvml
from tests.faults.programs import wait_until
from tests.telemetry.fake_nvml import FakeNvml

UP = "import sys, time; print('12:00:00 producer f-{number} INFO: ready for rank 0 at tcp://a:1', flush=True)"
BEREFT = "print('12:00:00 producer f-{number} INFO: tcp://a:1 has been silent for 9 s', flush=True)"
FOREVER = "import time; time.sleep(600)"
STUBBORN = "import signal; signal.signal(15, signal.SIG_IGN)"

StartFleet = Callable[..., DeviceFleet]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[StartFleet]:
    """Makes fleets whose producers are scripts; nothing of them is left when the test ends."""
    made: list[DeviceFleet] = []

    def start_one(*scripts: str, drain_timeout_s: float = 25.0) -> DeviceFleet:
        def stub(argv: Sequence[str], device: str, name: str, metrics: Address | None) -> list[str]:
            number = int(name.rpartition("-")[2])
            return [sys.executable, "-c", scripts[number].replace("{number}", str(number))]

        monkeypatch.setattr(device_fleet, "command", stub)
        config = ProduceConfig(devices="cpu", name="f", drain_timeout_s=drain_timeout_s)
        made.append(DeviceFleet(config, [], ["cpu"] * len(scripts)))
        return made[-1]

    yield start_one
    for fleet in made:
        for child in fleet._children:
            child.kill()
        fleet._close()


def until(fleet: DeviceFleet, now: float, condition: Callable[[], bool], what: str) -> None:
    """Step at one moment until this is seen."""

    def happened() -> bool:
        fleet._step(now, 143)
        return condition()

    wait_until(happened, what)


def states(fleet: DeviceFleet) -> list[ChildState | None]:
    return [child.state for child in fleet._children]


def statuses(fleet: DeviceFleet) -> list[int | None]:
    return [child.status for child in fleet._children]


def test_it_ends_with_0_when_the_run_is_over_for_all(start: StartFleet) -> None:
    assert start("pass", "pass").run() == 0


def test_it_ends_with_the_worst_status_when_all_have_ended_for_good(start: StartFleet) -> None:
    assert start("pass", "import sys; sys.exit(2)", "import sys; sys.exit(1)").run() == 2


@pytest.mark.parametrize(
    ("statuses", "status"), [([0, 0], 0), ([0, 143], 143), ([143, 1], 1), ([1, 2, 143], 2), ([137, 2], 137)]
)
def test_a_failure_is_worse_than_an_end_that_was_asked_for(statuses: list[int], status: int) -> None:
    assert worst(statuses) == status


def test_what_does_not_drain_in_time_is_killed(start: StartFleet) -> None:
    fleet = start(f"{UP}; {STUBBORN}; print('listens', flush=True); {FOREVER}", drain_timeout_s=3.0)
    until(fleet, 0.0, lambda: fleet._children[0].last_line == "listens", "it is up")
    assert fleet._ask()
    assert not fleet._ask(), "the second signal ends all"
    fleet._step(100.0, 143)
    assert states(fleet) == [ChildState.DRAINING]
    fleet._step(107.9, 143)
    assert statuses(fleet) == [None]
    until(fleet, 108.1, lambda: statuses(fleet) == [137], "it is killed 3 + 5 s after it was asked")


def test_nothing_is_started_again_after_the_signal(start: StartFleet) -> None:
    fleet = start("import sys; sys.exit(70)", f"{UP}; {FOREVER}")
    until(fleet, 0.0, lambda: states(fleet) == [ChildState.RESTARTING, ChildState.SERVING], "one crashed, one serves")
    fleet._ask()
    until(fleet, 5.0, lambda: statuses(fleet) == [143, 143], "both have ended")


def test_when_the_run_is_over_for_one_nobody_waits_to_be_started_again(start: StartFleet) -> None:
    fleet = start("import sys; sys.exit(70)", f"{UP}; sys.stdin.read()")
    until(fleet, 0.0, lambda: states(fleet) == [ChildState.RESTARTING, ChildState.SERVING], "one crashed, one serves")
    serving = fleet._children[1].process
    assert serving is not None
    assert serving.stdin is not None
    serving.stdin.close()
    serving.wait()
    until(fleet, 0.5, lambda: statuses(fleet) == [0, 0], "both have ended")


def test_when_the_run_is_over_for_one_those_without_a_rank_follow(start: StartFleet) -> None:
    fleet = start("pass", f"{UP}; {BEREFT}; {FOREVER}", f"{UP}; {FOREVER}")
    expected = [ChildState.ENDED, ChildState.WAITING, ChildState.SERVING]
    until(fleet, 0.0, lambda: states(fleet) == expected, "one has ended, one is bereft, one serves")
    fleet._step(9.0, 143)
    assert states(fleet) == expected, "they may still hear it themselves"
    until(fleet, 11.0, lambda: statuses(fleet)[:2] == [0, 0], "the bereft one has ended, as the run has")
    assert states(fleet)[2] is ChildState.SERVING


def test_each_producer_gets_the_same_settings_and_its_own_device_and_name() -> None:
    made = command(["--devices", "all", "--connect", "tcp://a:1"], "cuda:1", "ann-1")
    assert made[:3] == [sys.executable, "-m", "penstock.producer"]
    assert made[3:] == [
        *("--devices", "all", "--connect", "tcp://a:1"),
        *("--devices", "", "--device", "cuda:1", "--name", "ann-1"),
    ]


def test_each_producer_serves_its_metrics_at_the_next_port() -> None:
    config = ProduceConfig(devices="cpu,cpu", name="ann", metrics="[::1]:9400")
    fleet = DeviceFleet(config, ["--metrics", "[::1]:9400"], ["cpu", "cpu"])
    flags = [child._command[child._command.index("--name") :] for child in fleet._children]
    assert flags == [
        ["--name", "ann-0", "--metrics", "[::1]:9400"],
        ["--name", "ann-1", "--metrics", "[::1]:9401"],
    ]
    with pytest.raises(ConfigError, match="port 65535 \\+ 1 is beyond 65535"):
        DeviceFleet(ProduceConfig(devices="cpu,cpu", metrics="65535"), [], ["cpu", "cpu"])


@pytest.mark.parametrize(("cores", "processes", "threads"), [(8, 2, "4"), (8, 3, "2"), (2, 8, "1")])
def test_the_cores_are_divided(monkeypatch: pytest.MonkeyPatch, cores: int, processes: int, threads: str) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(device_fleet, "usable_cores", lambda: cores)
    assert share_of_cores(processes) == {"OMP_NUM_THREADS": threads}


def test_a_number_of_threads_that_the_user_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert share_of_cores(2) == {}
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(device_fleet, "usable_cores", lambda: os.cpu_count() or 1)
    children = DeviceFleet(ProduceConfig(threads=3), [], ["cpu"])._children
    assert children[0]._env == {}, "each producer reads it itself"


def test_a_line_tells_how_each_gpu_is(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    FakeNvml().install(monkeypatch)
    monkeypatch.setattr(nvml, "_of_this_process", lambda: fake)
    fake = nvml.Nvml({})
    caplog.set_level("INFO", "penstock")
    tell_health([("ann-0", "cuda:0"), ("ann-9", "cuda:9")])
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "ann-0 on cuda:0: NVIDIA H200, 97% busy, 41.2 of 150.8 GB, 612 W, 64 °C, SM clock 1980 MHz"
    assert lines[1].startswith("no figures of cuda:9: ")
    assert len(lines) == 2


@pytest.mark.parametrize(("devices", "told"), [(["cpu"], []), (["cpu", "cuda:1"], [("f-1", "cuda:1")])])
def test_health_is_told_of_gpus_alone(
    monkeypatch: pytest.MonkeyPatch, devices: list[str], told: list[tuple[str, str]]
) -> None:
    heard: list[tuple[str, str]] = []
    fleet = DeviceFleet(ProduceConfig(name="f"), [], devices)

    def tell(gpus: Sequence[tuple[str, str]]) -> None:
        heard.extend(gpus)
        fleet._ended.set()

    monkeypatch.setattr(device_fleet, "tell_health", tell)
    monkeypatch.setattr(device_fleet, "_HEALTH_S", 0.01)
    fleet._start_health()
    if told:
        assert fleet._ended.wait(20)
    assert heard == told
    assert fleet._ended.is_set() == bool(told)
