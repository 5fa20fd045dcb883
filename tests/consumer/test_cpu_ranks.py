"""The ranks that Accelerate was asked for on a CPU and did not start."""

import sys

import pytest

from penstock.consumer import cpu_ranks
from penstock.protocol.errors import ConfigError

LAUNCHED = {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1"}


class Launcher:
    """Stands for the parent process; its command line is what a user typed."""

    def __init__(self, *words: str) -> None:
        self.words = list(words)

    def parent(self) -> "Launcher":
        return self

    def cmdline(self) -> list[str]:
        return self.words


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "PMI_RANK", "OMPI_COMM_WORLD_RANK", *LAUNCHED):
        monkeypatch.delenv(name, raising=False)


def launched_by(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(cpu_ranks.psutil, "Process", lambda: Launcher(*words))
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("flag", [["--num_processes", "3"], ["--num-processes", "3"], ["--num_processes=3"]])
def test_the_number_is_read_from_the_launchers_command_line(monkeypatch: pytest.MonkeyPatch, flag: list[str]) -> None:
    launched_by(monkeypatch, "python", "accelerate", "launch", "--cpu", *flag, "consumer", "--config", "demo")
    assert cpu_ranks.missing() == 3


def test_a_process_that_is_a_rank_starts_none(monkeypatch: pytest.MonkeyPatch) -> None:
    launched_by(monkeypatch, "accelerate", "launch", "--num_processes", "3")
    monkeypatch.setenv("RANK", "1")
    assert cpu_ranks.missing() == 0


def test_a_process_of_its_own_starts_none() -> None:
    assert cpu_ranks.missing() == 0


def test_a_number_that_cannot_be_read_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    launched_by(monkeypatch, "mylauncher")
    with pytest.raises(ConfigError, match="pass --num_processes N"):
        cpu_ranks.missing()


def stand_in(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let ranks run `script` with this interpreter instead of the trainer."""
    popen = cpu_ranks.subprocess.Popen
    monkeypatch.setattr(
        cpu_ranks.subprocess, "Popen", lambda command, **options: popen([sys.executable, "-c", script], **options)
    )


def test_every_rank_learns_its_place(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    stand_in(monkeypatch, "import os; print(os.environ['RANK'] + '/' + os.environ['WORLD_SIZE'], flush=True)")
    assert cpu_ranks.run(3, []) == 0
    assert sorted(capfd.readouterr().out.split()) == ["0/3", "1/3", "2/3"]


def test_the_first_failure_ends_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    # Rank 1 fails; rank 0 would sleep far beyond the test's own limit.
    stand_in(monkeypatch, "import os, sys, time; sys.exit(7) if os.environ['RANK'] == '1' else time.sleep(600)")
    assert cpu_ranks.run(2, []) == 7
