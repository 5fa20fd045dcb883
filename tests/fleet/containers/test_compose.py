"""The commands of compose.yaml as processes: keys, a trainer that binds all addresses, a producer that has its name."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.consumer.ledger_reader import read_steps
from tests.deploy.test_containers import services
from tests.fleet.own_host import TOOLS, Host, wait_for

pytestmark = [pytest.mark.fleet, pytest.mark.long, pytest.mark.alone, pytest.mark.timeout(400)]

NUM_STEPS = 10
SMALL = (
    *(f"--max-steps={NUM_STEPS}", "--groups-per-step=8", "--generator.images-per-group=4", "--evaluation.data=none"),
    *("--reservoir.capacity-groups=16", "--reservoir.reuse=1", "--stream.window-groups=16"),
)
START_S = 240.0
"""Longer than two processes take to load torch on a busy machine."""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    if os.geteuid() != 0 or any(shutil.which(tool) is None for tool in TOOLS):
        pytest.skip(f"needs root, {', '.join(TOOLS)}: containers get names and ports of their own")
    with Host(tmp_path, {"trainer": "127.0.0.2"}) as made:
        yield made


def test_keys_are_made_and_a_producer_serves_the_trainer_by_its_name(host: Host, tmp_path: Path) -> None:
    volumes = {f"/{name}": tmp_path / name for name in ("keys", "producer-key", "runs")}
    for folder in volumes.values():
        folder.mkdir(mode=0o700)
    found = services()

    def here(word: str) -> str:
        # The longer first: /keys is no part of /producer-key, but of paths that are here already.
        for volume, folder in volumes.items():
            if word.startswith(f"{volume}/") or f"={volume}" in word:
                return word.replace(volume, str(folder), 1)
        return word

    (script,) = found["keys"]["command"]
    for volume in ("/producer-key", "/keys"):
        script = script.replace(f" {volume}", f" {volumes[volume]}")
    keys = host.start("keys", [*found["keys"]["entrypoint"], script], {})
    assert keys.wait(60) == 0, host.said("keys")

    env = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    train = [here(word) for word in found["trainer"]["command"]]
    produce = [here(word) for word in found["producer"]["command"]]
    trainer = host.start("trainer", ["penstock", *train, *SMALL], env)
    producer = host.start("producer", ["penstock", *produce], env)
    # What the health checks ask.
    wait_for(lambda: host.get("http://127.0.0.1:9500/readyz") == 200 or trainer.poll() is not None, "ready", START_S)
    assert [process.wait(START_S) for process in (trainer, producer)] == [0, 0], host.said("trainer")
    assert "tcp://trainer:5599" in host.said("trainer")
    assert "serves rank 0 of 1 at tcp://trainer:5599" in host.said("producer")
    assert list(read_steps(volumes["/runs"] / "demo")) == list(range(NUM_STEPS))
