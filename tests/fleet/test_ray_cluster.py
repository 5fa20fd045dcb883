"""Producers as actors of a real Ray cluster on this machine: a node that is lost costs nothing but time."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.consumer.ledger_reader import read_steps
from penstock.deploy.ray_fleet import RayFleet
from penstock.deploy.ray_plan import RayPlan

STEPS, GROUPS_PER_STEP = 60, 4


class Rank:
    """A real paced rank, in ticket order.

    Args:
        folder: of the run and its log.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "rank.log"
        flags = {
            "images-per-s": 1e9,
            "max-steps": STEPS,
            "first-measured-step": 1,
            "min-producers": 2,
            "groups-per-step": GROUPS_PER_STEP,
            "order": "ticket",
            "run-dir": folder / "run",
            "stream.endpoint": f"ipc://{folder}/rank",
            "generator.images-per-group": 4,
            "generator.height": 8,
            "generator.width": 8,
            "reservoir.capacity-groups": GROUPS_PER_STEP,
        }
        command = [
            sys.executable,
            "-m",
            "penstock.consumer.paced",
            *(f"--{name}={value}" for name, value in flags.items()),
        ]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)

    @property
    def endpoint(self) -> str:
        return f"ipc://{self.folder}/rank"

    def said(self, what: str, within_s: float) -> None:
        """Wait until its log says so."""
        deadline = time.monotonic() + within_s
        while what not in self.log.read_text():
            assert time.monotonic() < deadline, self.log.read_text()
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.1)


@pytest.fixture
def rank(tmp_path: Path) -> Iterator[Rank]:
    started = Rank(tmp_path)
    yield started
    started.process.kill()
    started.process.wait()


def _children_of(name: str) -> list[int]:
    """Living producers of this name, whoever has started them."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"penstock.producer" in command and f"--name\0{name}\0".encode() in command + b"\0":
                found.append(int(entry.name))
    return found


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.fleet
@pytest.mark.timeout(240)
def test_the_producers_of_a_removed_node_come_back_on_another_and_nothing_is_lost(rank: Rank) -> None:
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'penstock[ray]'")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    base = f"lost-{os.getpid()}"
    try:
        lost = cluster.add_node(num_cpus=1)
        cluster.add_node(num_cpus=2)
        ray.init(address=cluster.address, log_to_driver=False)
        produce = f"--backend paced --paced-images-per-s 40 --batch-images 8 --batch-wait-s 0 --name {base}"
        fleet = RayFleet(RayPlan(connect=rank.endpoint, produce=produce, producers=2))
        statuses: list[int] = []
        waiting = threading.Thread(target=lambda: statuses.extend(fleet.wait()))
        waiting.start()
        rank.said(f"{base}-0 joined", 90.0)
        rank.said(f"{base}-1 joined", 90.0)
        cluster.remove_node(lost, allow_graceful=False)
        rank.said("its connection ended", 60.0)
        assert rank.process.wait(timeout=150) == 0, rank.log.read_text()
        waiting.join(timeout=60)
        assert statuses == [0, 0], "both ended because the run was over, the lost one in another life"
        fleet.close()
    finally:
        ray.shutdown()
        cluster.shutdown()
    report = json.loads(rank.log.read_text().splitlines()[-1])
    assert report["steps"] == STEPS - 1
    text = rank.log.read_text()
    assert sum(text.count(f"{base}-{number} joined") for number in range(2)) == 3, text
    used = [index for step in read_steps(rank.folder / "run").values() for index in step]
    assert sorted(used) == list(range(STEPS * GROUPS_PER_STEP)), "nothing lost, nothing twice"
    assert _children_of(f"{base}-0") == _children_of(f"{base}-1") == []
