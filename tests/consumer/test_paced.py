"""A paced rank behind a paced fleet: real processes, real protocol, and the pace that was asked for."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from penstock.consumer.ledger_reader import read_steps
from penstock.consumer.paced import main
from penstock.protocol.errors import ConfigError
from tests.consumer.profile_run.rig import free_ports

WAIT_S = 90


def _run(
    folder: Path,
    *,
    world_size: int = 1,
    fleet_images_per_s: float,
    meanwhile: Callable[[], None] = lambda: None,
    **flags: Any,
) -> list[dict[str, Any]]:
    """Two producers and as many ranks; the ranks' reports."""
    endpoint = f"tcp://127.0.0.1:{free_ports(2)}"
    env = os.environ | {"OMP_NUM_THREADS": "1", "WORLD_SIZE": str(world_size)}
    common = {"run-dir": folder, "stream.endpoint": endpoint, "generator.height": 32, "generator.width": 32}
    common |= {"groups-per-step": 8, "reservoir.capacity-groups": 16, "min-producers": 2}
    command = [sys.executable, "-m", "penstock.consumer.paced"]
    command += [f"--{name.replace('_', '-')}={value}" for name, value in {**common, **flags}.items()]
    pace = f"--paced-images-per-s={fleet_images_per_s / 2}"
    produce = [sys.executable, "-m", "penstock.producer", "--backend=paced", pace, f"--connect={endpoint}"]
    produce += ["--batch-images=4", "--batch-wait-s=0", "--trainer-timeout-s=30"]
    producers = [subprocess.Popen(produce, env=env, stderr=subprocess.DEVNULL) for _ in range(2)]
    ranks = [
        subprocess.Popen(command, env=env | {"RANK": str(rank)}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for rank in range(world_size)
    ]
    try:
        meanwhile()
        outputs = [rank.communicate(timeout=WAIT_S)[0] for rank in ranks]
        assert [rank.returncode for rank in ranks] == [0] * world_size
        assert [producer.wait(timeout=WAIT_S) for producer in producers] == [0, 0], "they end with the run"
    finally:
        for process in (*producers, *ranks):
            process.kill()
    return [json.loads(output.splitlines()[-1]) for output in outputs]


@pytest.mark.slow
@pytest.mark.alone
def test_a_slow_fleet_bounds_the_run_at_e_times_its_pace(tmp_path: Path) -> None:
    flags = {"images_per_s": 800, "max_steps": 40, "first_measured_step": 10, "reservoir.reuse": 2}
    (report,) = _run(tmp_path, fleet_images_per_s=100, **flags)
    # e·P = 200 images/s; a machine that is busy may be slower, nothing can be faster for long.
    assert 120 < report["images_per_s"] < 230
    assert report["wait_s"] > report["seconds"] / 3, "the trainer could do 800"
    assert report["rejected"] == 0
    steps = read_steps(tmp_path)
    assert sorted(steps) == list(range(40))
    assert all(len(indices) == 8 for indices in steps.values())


@pytest.mark.slow
def test_a_rehearsal_is_scraped_and_traced_as_a_run(tmp_path: Path) -> None:
    port, seen = free_ports(2) + 2, {}

    def scrape() -> None:
        deadline = time.monotonic() + WAIT_S
        while not seen and time.monotonic() < deadline:
            with contextlib.suppress(OSError), urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
                said = dict(line.rsplit(" ", 1) for line in lines if line.startswith("penstock_"))
                if float(said.get('penstock_steps_total{rank="0"}', 0)) > 2:
                    seen.update(said)
            time.sleep(0.05)

    trace = tmp_path / "trace.json"
    flags = {"images_per_s": 400, "max_steps": 40, "metrics": port, "trace": trace}
    _run(tmp_path / "run", fleet_images_per_s=1000, meanwhile=scrape, **flags)
    assert float(seen['penstock_images_received_total{rank="0"}']) > 0
    assert float(seen['penstock_stage_duration_seconds_count{rank="0",stage="step"}']) > 0
    assert float(seen['penstock_reservoir_capacity_groups{rank="0"}']) == 16
    events = json.loads(trace.read_text())["traceEvents"]
    names = {event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert {"rank 0"} < names
    assert sum(event["name"] == "step" and event["ph"] == "X" for event in events) == 40


@pytest.mark.slow
@pytest.mark.alone
def test_a_slow_trainer_bounds_the_run_at_its_pace_and_two_ranks_share_the_groups(tmp_path: Path) -> None:
    flags = {"images_per_s": 100, "max_steps": 20, "first_measured_step": 5}
    reports = _run(tmp_path, world_size=2, fleet_images_per_s=1000, **flags)
    for report in reports:
        assert 50 < report["images_per_s"] <= 101
        assert report["wait_s"] < report["seconds"] / 3
    indices = [index for used in read_steps(tmp_path).values() for index in used]
    assert len(set(indices)) == len(indices) == 20 * 8, "fresh groups, each on its own rank"


def test_a_rehearsal_does_not_replace_the_ledger_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match="is a run's folder, whose ledger a rehearsal would replace"):
        main(["--run-dir", str(tmp_path)])


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--dashboard", "0", "dashboard must be left out of a rehearsal: there is nothing to see"),
        ("--fleet.local-producers", "2", "fleet.local_producers must be left out of a rehearsal: it starts none"),
        ("--tracking.trackers", "tensorboard", "tracking.trackers must be left out of a rehearsal"),
        ("--filter.min-score", "0.2", "filter must be left out of a rehearsal: its images show nothing"),
        ("--resume", "true", "resume must be left out of a rehearsal"),
    ],
)
def test_what_a_rehearsal_cannot_do_is_refused_in_one_line_before_anything_is_touched(
    tmp_path: Path, flag: str, value: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        main(["--run-dir", str(tmp_path / "run"), f"{flag}={value}"])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"run_dir .* cannot be made: Not a directory"):
        main(["--run-dir", str(tmp_path / "file" / "run")])
