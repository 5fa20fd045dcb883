"""`--devices`: one command, a producer on each device. Real processes before a real rank."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.faults.programs import Program
from tests.producer.device_programs import NAMES, SIGNALS, Fleet, Work, alive, gone
from tests.producer.live_rank import LiveRank

OpenRank = Callable[..., LiveRank]
StartFleet = Callable[..., Fleet]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartFleet]:
    """Starts a fleet that is gone when the test ends."""
    fleets: list[Fleet] = []

    def start_one(endpoint: str, *flags: str) -> Fleet:
        fleets.append(Fleet(endpoint, tmp_path, *flags))
        return fleets[-1]

    yield start_one
    for fleet in fleets:
        fleet.kill()
        gone(fleet.seen)


def test_each_device_serves_until_the_run_is_over(open_rank: OpenRank, start: StartFleet) -> None:
    work = Work(open_rank)
    fleet = start(work.rank.socket.endpoint)
    work.until_all_serve()
    mapped = {part for part in psutil.Process(fleet.process.pid).memory_maps() if "torch" in part.path}
    assert not mapped, "the parent needs no torch"
    work.rank.say_bye()
    work.rank.run_until(lambda: not fleet.alive)
    assert fleet.end() == 0, fleet.output
    for name in NAMES:
        assert fleet.states(name)[:3] == ["is starting", "is warming up", "is serving"]
        assert fleet.states(name)[-1] == "has ended for good with status 0"
        assert f"\n{name} | " in f"\n{fleet.output}"


def test_a_producer_that_is_killed_is_started_again_and_serves(open_rank: OpenRank, start: StartFleet) -> None:
    work = Work(open_rank)
    fleet = start(work.rank.socket.endpoint)
    work.until_all_serve()
    first, other = (fleet.pid(name) for name in NAMES)
    psutil.Process(first).kill()
    work.until(lambda: "is restarting in 1 s" in fleet.states("fleet-0"))
    work.mark()
    work.until_all_serve()
    assert fleet.pid("fleet-0") != first
    assert fleet.pid("fleet-1") == other, "the other one has not noticed"
    assert "it ended with status 137 (SIGKILL), after its log said: " in fleet.output


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_a_signal_makes_all_drain_and_leaves_nothing(
    open_rank: OpenRank, start: StartFleet, number: signal.Signals, status: int
) -> None:
    work = Work(open_rank)
    fleet = start(work.rank.socket.endpoint)
    work.until_all_serve()
    pids = {fleet.pid(name) for name in NAMES}
    fleet.send(number)
    work.until(lambda: not fleet.alive)
    assert fleet.end() == status, fleet.output
    assert not any(alive(pid) for pid in pids)
    for name in NAMES:
        assert any(f"{name} drains" in note for note in work.rank.notes), "it handed back what it had not begun"
        assert "is draining" in fleet.states(name)


def test_a_scheduler_that_signals_every_process_does_not_cut_the_drain_short(
    open_rank: OpenRank, start: StartFleet
) -> None:
    work = Work(open_rank)
    fleet = start(work.rank.socket.endpoint, "--paced-images-per-s", "8")
    work.until_all_serve()
    for pid in (fleet.process.pid, *(fleet.pid(name) for name in NAMES)):
        psutil.Process(pid).terminate()
    work.mark()
    work.until(lambda: not fleet.alive)
    assert fleet.end() == 143
    assert set(NAMES) <= work.makers, "what was begun was finished"


def test_a_second_signal_ends_all_at_once(open_rank: OpenRank, start: StartFleet) -> None:
    work = Work(open_rank)
    fleet = start(work.rank.socket.endpoint, "--paced-images-per-s", "0.1", "--drain-timeout-s", "100")
    work.until(lambda: all("is serving" in fleet.states(name) for name in NAMES))
    pids = {fleet.pid(name) for name in NAMES}
    fleet.send(signal.SIGINT)
    work.until(lambda: all("is draining" in fleet.states(name) for name in NAMES))
    fleet.send(signal.SIGINT)
    assert fleet.end(20.0) == 130
    assert not any(alive(pid) for pid in pids)


def test_producers_do_not_outlive_a_parent_that_is_killed(open_rank: OpenRank, start: StartFleet) -> None:
    work = Work(open_rank)
    fleet = start(work.rank.socket.endpoint)
    work.until_all_serve()
    pids = {fleet.pid(name) for name in NAMES}
    fleet.send(signal.SIGKILL)
    fleet.end()
    gone(pids)


def test_producers_that_the_trainer_refuses_are_not_started_again(open_rank: OpenRank, start: StartFleet) -> None:
    work = Work(open_rank, digest="a0")
    fleet = start(work.rank.socket.endpoint)
    work.until(lambda: not fleet.alive)
    assert fleet.end() == 1
    assert "restarting" not in fleet.output
    for name in NAMES:
        assert fleet.states(name)[-1].startswith("has ended for good with status 1: error: ")


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (
            ["--devices", "cpu,gpu"],
            "error: devices must be `all` or a list such as 0,2,5 or 0-3,6 or cuda:0,cuda:1 or cpu,cpu,",
        ),
        (
            ["--devices", "cpu,cpu", "--device", "cpu"],
            "error: --device: device must be auto beside devices (--device auto),",
        ),
        (["--devices", "cpu,cpu", "--threads", "-1"], "error: --threads: threads must be >= 0, got -1"),
    ],
)
def test_a_mistake_is_one_line_before_anything_starts(tmp_path: Path, flags: list[str], line: str) -> None:
    program = Program(["-m", "penstock.producer", *flags], tmp_path / "log")
    assert program.end() == 2
    assert program.output.startswith(line)
    assert program.output.count("\n") == 1
