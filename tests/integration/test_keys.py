"""Keys on real processes: a run whose producers have them, one revoked in the middle, and some who never get in."""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from penstock.consumer.ledger_reader import read_steps
from tests.consumer.profile_run.rig import free_ports
from tests.protocol.key_ring import KeyRing

WAIT_S = 110.0
NUM_STEPS = 120
GROUPS_PER_STEP = 4


class Programs:
    """Processes of one run, each with a log; all are ended with it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()

    def start(self, name: str, module: str, *arguments: object) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", module, *map(str, arguments)]
        with (self._folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        self._stack.callback(process.wait, 20)
        self._stack.callback(process.kill)
        return process

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text(errors="replace")

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    made = Programs(tmp_path)
    yield made
    made.close()


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_a_run_goes_on_to_its_end_while_a_producer_is_revoked_and_strangers_are_refused(
    tmp_path: Path, programs: Programs
) -> None:
    ring, run, endpoint = KeyRing(tmp_path), tmp_path / "run", f"tcp://127.0.0.1:{free_ports(1)}"
    for name in ("ann", "bob", "eve"):
        ring.add(name)
    (tmp_path / "eve.key").write_text((ring.folder / "eve.key").read_text())
    (tmp_path / "eve.key").chmod(0o600)
    ring.revoke("eve")
    rank = programs.start(
        "rank",
        "penstock.consumer.paced",
        *("--stream.endpoint", endpoint, "--stream.keys", ring.folder, "--order", "ticket"),
        *("--groups-per-step", GROUPS_PER_STEP, "--reservoir.reuse", 1, "--reservoir.capacity-groups", GROUPS_PER_STEP),
        *("--prompts.source", "toyworld", "--images-per-s", 320, "--max-steps", NUM_STEPS, "--run-dir", run),
    )
    for name, key in (
        ("ann", ring.folder / "ann.key"),
        ("bob", ring.folder / "bob.key"),
        ("eve", tmp_path / "eve.key"),
    ):
        programs.start(name, "penstock.producer", *_produce(endpoint, name), "--key", key, "--trainer-timeout-s", 20)
    _until(lambda: all(f"{name} joined with the key of {name}" in programs.log("rank") for name in ("ann", "bob")))
    # Not before the rank listens: it has five seconds to learn why it is not let in.
    plain = programs.start("plain", "penstock.producer", *_produce(endpoint, "plain"), "--trainer-timeout-s", 5)
    ring.revoke("bob")
    _until(lambda: "bob is out: its key was revoked" in programs.log("rank"))
    _until(lambda: "error: its key was revoked" in programs.log("bob"))
    _until(lambda: rank.poll() is not None)
    assert rank.returncode == 0, programs.log("rank")
    report = json.loads(programs.log("rank").splitlines()[-1])
    assert report["groups"] >= NUM_STEPS * GROUPS_PER_STEP
    used = Counter(index for indices in read_steps(run).values() for index in indices)
    assert used == Counter(range(NUM_STEPS * GROUPS_PER_STEP))
    _until(lambda: plain.poll() is not None)
    assert plain.returncode == 1
    assert "wants a key" in programs.log("plain").splitlines()[-1]
    assert "refuses the key" in programs.log("eve")
    assert "eve joined" not in programs.log("rank")
    for line in ("is not in", "it has no key"):
        assert line in programs.log("rank")


def _produce(endpoint: str, name: str) -> list[object]:
    return [
        "--connect",
        endpoint,
        "--name",
        name,
        "--backend",
        "paced",
        "--paced-images-per-s",
        400,
        "--batch-images",
        16,
    ]
