"""Producers as actors of a Ray cluster: what is asked of Ray. A real cluster: tests/fleet/test_ray_cluster.py."""

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock.deploy.cli import USAGE, VERBS
from penstock.deploy.ray_actor import ProducerActor
from penstock.deploy.ray_fleet import main
from penstock.deploy.ray_plan import RayConfig, RayPlan
from penstock.protocol.errors import ConfigError


def test_the_command_knows_the_verb() -> None:
    assert "ray" in VERBS
    assert "penstock ray" in USAGE


def plan(**changes: Any) -> RayPlan:
    return RayPlan(**{"connect": "tcp://trainer:5599"} | changes)


def test_an_address_is_needed() -> None:
    with pytest.raises(ConfigError, match="penstock ray needs --connect: the address of a rank"):
        main(["demo"])


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"gpus": -1.0}, "gpus must be >= 0"),
        ({"cpus": float("inf")}, "cpus must be >= 0"),
        ({"max_restarts": -2}, "max_restarts must be >= -1"),
    ],
)
def test_what_cannot_be_is_refused_by_name(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        RayConfig(**changes)
    with pytest.raises(ConfigError, match="producers must be >= 1"):
        plan(producers=0)


def test_a_dry_run_prints_every_producers_command_and_asks_no_ray(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    produce = "--produce=--config demo --name ann --metrics 127.0.0.1:9400"
    where = ["--connect", "tcp://trainer:5599", "--key", "/keys/my key"]
    assert main(["demo", "--producers", "2", produce, *where, "--gpus", "1", "--dry-run"]) == 0
    own = "--config demo --name ann --metrics 127.0.0.1:9400 --connect tcp://trainer:5599 --key '/keys/my key'"
    assert capsys.readouterr().out.splitlines() == [
        "# ann-0",
        f"{sys.executable} -m penstock.producer {own} --devices '' --name ann-0 --metrics 127.0.0.1:9400",
        "# ann-1",
        f"{sys.executable} -m penstock.producer {own} --devices '' --name ann-1 --metrics 127.0.0.1:9401",
    ]


def test_devices_are_rays_business() -> None:
    with pytest.raises(ConfigError, match="must not name --devices"):
        plan(produce="--backend paced --devices all").produce_config()


class Life:
    """A producer's command: writes its number of lives to a file, and then does what `body` says.

    Args:
        folder: gets the file.
        body: Python.
    """

    def __init__(self, folder: Path, body: str) -> None:
        self.file = folder / "lives"
        begin = f"import os, signal, sys, time\nopen({str(self.file)!r}, 'a').write('.')\n"
        lives = f"lives = os.path.getsize({str(self.file)!r})\n"
        self.command = [sys.executable, "-S", "-c", begin + lives + body]

    @property
    def number(self) -> int:
        """Of lives that have begun."""
        return self.file.stat().st_size if self.file.exists() else 0


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_actor_starts_a_crashed_producer_again_and_leaves_one_that_has_ended_for_good(tmp_path: Path) -> None:
    life = Life(tmp_path, "sys.exit(70 if lives == 1 else 2)")
    assert ProducerActor("ann-0", life.command).serve() == 2
    assert life.number == 2


@pytest.mark.parametrize("is_crashed", [True, False], ids=["between two lives", "at work"])
def test_a_producer_that_is_drained_ends_and_does_not_begin_again(
    tmp_path: Path, is_crashed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    life = Life(tmp_path, "sys.exit(70)" if is_crashed else "time.sleep(60)")
    actor = ProducerActor("ann-0", life.command)
    statuses: list[int] = []
    serving = threading.Thread(target=lambda: statuses.append(actor.serve()))
    serving.start()
    wait_for(lambda: life.number == 1 and (not is_crashed or "ann-0 on Ray is restarting in 1 s" in caplog.text))
    actor.drain()
    serving.join(timeout=30)
    assert statuses == [143]
    assert life.number == 1


def test_a_lack_of_ray_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"penstock ray needs Ray: pip install 'penstock\[ray\]'"):
        main(["--connect", "tcp://127.0.0.1:5599", "--produce=--backend paced"])
