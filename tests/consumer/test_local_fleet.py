"""Local producers: they end with the fleet within its bound, whatever they do, and their end is noticed."""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import psutil
import pytest

from penstock.config.address import Address
from penstock.consumer import run_folder
from penstock.consumer.config import FleetConfig
from penstock.consumer.local_fleet import LocalFleet
from penstock.consumer.making_config import RealConfig
from penstock.protocol.tickets import Kind

WAIT_S = 20.0
GOOD = "import sys; print('up', flush=True); sys.stdin.read()"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)
DEAD = "import sys; print('loading'); sys.exit('error: no such folder')"

StartFleet = Callable[[str, int], LocalFleet]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StartFleet]:
    """Start a fleet of processes that run a script in a producer's place."""
    script = ""
    fleets: list[LocalFleet] = []
    real = LocalFleet._start

    def start_stub(command: list[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
        assert command[1:3] == ["-m", "penstock.producer"]
        assert command[command.index("--connect") + 1] == "tcp://127.0.0.1:1"
        return real([sys.executable, "-c", script], output)

    monkeypatch.setattr(LocalFleet, "_start", staticmethod(start_stub))

    def start_fleet(program: str, count: int) -> LocalFleet:
        nonlocal script
        script = program
        folder = run_folder.prepare(tmp_path / "run", overwrite=False, resume=False)
        fleet = LocalFleet(FleetConfig(local_producers=count), "tcp://127.0.0.1:1", folder)
        fleets.append(fleet)
        return fleet

    yield start_fleet
    for fleet in fleets:
        for local in fleet._locals:
            local.process.kill()
        fleet.close()


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _up(tmp_path: Path, count: int) -> bool:
    logs = [tmp_path / "run" / f"producer-{number}.log" for number in range(count)]
    return all(log.exists() and "up" in log.read_text() for log in logs)


def test_producers_end_with_the_fleet(start: StartFleet, tmp_path: Path) -> None:
    with start(GOOD, 2) as fleet:
        _until(lambda: _up(tmp_path, 2))
        fleet.check()
        processes = [local.process for local in fleet._locals]
        begun = time.monotonic()
    assert time.monotonic() - begun < 3
    assert [process.returncode for process in processes] == [0, 0]
    assert not any(psutil.pid_exists(process.pid) for process in processes)


def test_producers_that_do_not_listen_are_killed_within_five_seconds(start: StartFleet, tmp_path: Path) -> None:
    fleet = start(STUBBORN, 2)
    _until(lambda: _up(tmp_path, 2))
    begun = time.monotonic()
    fleet.close()
    assert time.monotonic() - begun < 5
    assert all(local.process.returncode == -9 for local in fleet._locals)


def test_the_end_of_one_producer_is_logged_with_its_last_words(
    start: StartFleet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = start(GOOD, 2)
    _until(lambda: _up(tmp_path, 2))
    fleet._locals[1].process.kill()
    fleet._locals[1].process.wait()
    assert fleet.check() is None, "another is left"
    assert fleet.check() is None
    warnings = [record.getMessage() for record in caplog.records if "local-1" in record.getMessage()]
    assert len(warnings) == 1
    assert "-9" in warnings[0]
    assert "up" in warnings[0]


def test_the_end_of_all_producers_ends_the_run_with_their_last_words(start: StartFleet) -> None:
    fleet = start(DEAD, 2)
    for local in fleet._locals:
        local.process.wait(WAIT_S)
    why = fleet.check()
    assert why is not None
    assert "every local producer has ended" in why
    assert "error: no such folder" in why
    assert fleet.check() == why


def test_producers_of_real_images_serve_the_run_s_set_and_are_missed_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    commands: list[list[str]] = []
    real = LocalFleet._start

    def start_stub(command: list[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
        commands.append(command)
        return real([sys.executable, "-c", DEAD if "--images" in command else GOOD], output)

    monkeypatch.setattr(LocalFleet, "_start", staticmethod(start_stub))
    folder = run_folder.prepare(tmp_path / "run", overwrite=False, resume=False)
    config = FleetConfig(local_producers=1, local_image_producers=1)
    source = RealConfig(source="my photos", split="train", fraction=0.5)
    with LocalFleet(config, "tcp://127.0.0.1:1", folder, source) as fleet:
        _, serving = commands
        assert " ".join(serving[3:]) == (
            "--images my photos --images-split train --connect tcp://127.0.0.1:1 --name local-images-0"
        )
        _until(lambda: fleet.check(Kind.REAL) is not None)
        why = fleet.check(Kind.REAL)
        assert why is not None
        assert "every local producer of real images has ended" in why
        assert "image-producer-0.log: error: no such folder" in why
        assert fleet.check() is None, "the other kind's live on"
        assert fleet.names == {"local-0", "local-images-0"}
        (lost,) = fleet.lost
        assert re.fullmatch(r"producer local-images-0 has ended; the last line of .*: error: no such folder", lost)
    assert len([text for text in caplog.messages if "local-images-0 ended" in text]) == 1
    run_folder.check(tmp_path / "run", overwrite=True, resume=False)


def test_each_producer_serves_its_metrics_at_an_address_of_its_own_and_the_log_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    commands: list[list[str]] = []
    real = LocalFleet._start

    def start_stub(command: list[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
        commands.append(command)
        return real([sys.executable, "-c", GOOD], output)

    monkeypatch.setattr(LocalFleet, "_start", staticmethod(start_stub))
    folder = run_folder.prepare(tmp_path / "run", overwrite=False, resume=False)
    config = FleetConfig(local_producers=2, local_image_producers=1)
    places = [Address("127.0.0.1", 9402), Address("::1", 9404), Address("127.0.0.1", 0)]
    with LocalFleet(
        config,
        "tcp://127.0.0.1:1",
        folder,
        RealConfig(source="toyworld", fraction=0.5),
        places,
        "",
        ["--metrics-insecure"],
    ):
        told = [command[command.index("--metrics") + 1] for command in commands]
        assert all(command[command.index("--metrics") + 2] == "--metrics-insecure" for command in commands)
    assert told == ["127.0.0.1:9402", "[::1]:9404", "127.0.0.1:0"]
    assert [text for text in caplog.messages if "metrics" in text] == [
        "local-0 serves its metrics at http://127.0.0.1:9402/metrics",
        "local-1 serves its metrics at http://[::1]:9404/metrics",
        f"local-images-0 serves its metrics at a free port, which {folder.image_producer_log(0)} names",
    ]


def test_a_fleet_closes_twice(start: StartFleet, tmp_path: Path) -> None:
    fleet = start(GOOD, 1)
    _until(lambda: _up(tmp_path, 1))
    fleet.close()
    fleet.close()
