"""`penstock up` for real: ranks and producers as processes, some of which are killed."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import zmq

from penstock.consumer.ledger_reader import read_steps
from tests.faults.programs import Program
from tests.telemetry.terminal.pseudo_terminal import PseudoTerminal

pytestmark = [pytest.mark.alone, pytest.mark.slow]

UP = ["-c", "from penstock.deploy.cli import main; main()", "up"]
TRAIN = "--config demo --order ticket --max-steps 10 --groups-per-step 8 --reservoir.capacity-groups 32 "
TRAIN += "--generator.images-per-group 4 --reservoir.reuse 4 --evaluation.data none --checkpoint-every-steps 4"
PACED = "--backend paced --paced-images-per-s {pace} --batch-images 8 --batch-wait-s 0 --credit-groups 4"
WAIT_S = 110.0
"""Longer than anything takes on a busy machine; no test waits for it but one that fails."""


class Up(Program):
    """`penstock up` as a process, with all that it starts."""

    def __init__(self, run_dir: Path, *flags: str, pace: float = 400.0) -> None:
        self.run_dir = run_dir
        settings = ["--train", f"{TRAIN} --run-dir {run_dir}", "--produce", PACED.format(pace=pace)]
        self.seen: set[int] = set()
        super().__init__([*UP, *settings, *flags], run_dir.with_name(f"{run_dir.name}.log"))

    def child(self, *words: str) -> psutil.Process | None:
        """The process whose command or environment has these words; None while there is none."""
        for process in psutil.Process(self.process.pid).children():
            try:
                self.seen.add(process.pid)
                place = [f"{name}={value}" for name, value in process.environ().items()]
                if set(words) <= {*process.cmdline(), *place}:
                    return process
            except psutil.NoSuchProcess:
                continue
        return None

    def until_step(self, step: int) -> None:
        self.until(lambda: len(read_steps(self.run_dir)) >= step, f"step {step}", WAIT_S)

    def kill_child(self, *words: str) -> None:
        process = self.child(*words)
        assert process is not None, self.output
        process.kill()


Start = Callable[..., Up]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[int, ...]]:
    """What each step of a run of one rank and one producer used."""
    up = Up(tmp_path_factory.mktemp("up") / "alone", "--producers", "1")
    assert up.end(WAIT_S) == 0, up.output
    return read_steps(up.run_dir)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts runs of which nothing is left when the test ends."""
    made: list[Up] = []

    def start_one(*flags: str, pace: float = 400.0) -> Up:
        made.append(Up(tmp_path / "run", *flags, pace=pace))
        return made[-1]

    yield start_one
    for up in made:
        if up.alive:
            up.child("-")
            up.kill()
        assert not any(psutil.pid_exists(pid) for pid in up.seen), up.output


def test_two_ranks_whose_producer_is_killed_train_on_the_same_groups(
    start: Start, undisturbed: dict[int, tuple[int, ...]]
) -> None:
    assert list(undisturbed) == list(range(10))
    up = start("--ranks", "2", "--producers", "2", pace=60.0)
    up.until_step(2)
    up.kill_child("producer-1")
    up.until_log("producer-1 on cpu is restarting in 1 s; it ended with status 137", WAIT_S)
    assert up.end(WAIT_S) == 0, up.output
    assert up.output.count("producer-1 on cpu is starting") == 2
    assert read_steps(up.run_dir) == undisturbed
    logs = {path.name for path in (up.run_dir / "logs").iterdir()}
    assert logs == {"up.log", "rank-0.log", "rank-1.log", "producer-0.log", "producer-1.log"}
    assert "\nrank-1     | " in up.output


def test_a_run_whose_rank_is_killed_ends_and_goes_on_as_it_says(
    start: Start, undisturbed: dict[int, tuple[int, ...]]
) -> None:
    up = start("--producers", "2", pace=60.0)
    up.until_step(6)
    up.kill_child("penstock.consumer")
    assert up.end(WAIT_S) == 137, up.output
    assert "rank-0 has crashed (status 137); the last lines of " in up.output
    (hint,) = [line for line in up.output.splitlines() if "to go on from step 4: penstock up --train " in line]
    assert hint.endswith(" --resume")
    assert not any(psutil.pid_exists(pid) for pid in up.seen)
    again = start("--producers", "1", "--resume")
    assert again.end(WAIT_S) == 0, again.output
    assert read_steps(again.run_dir) == undisturbed


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_all_and_leaves_nothing(start: Start, number: signal.Signals, status: int) -> None:
    up = start("--producers", "2", pace=30.0)
    up.until_step(1)
    up.child("-")
    assert len(up.seen) == 3
    up.send(number)
    assert up.end(20.0) == status, up.output
    assert "Traceback" not in up.output
    assert not any(psutil.pid_exists(pid) for pid in up.seen)


def test_producers_that_cannot_work_end_the_run_at_once(start: Start) -> None:
    up = start("--produce", "--model /nonexistent --device cpu", "--producers", "2")
    assert up.end(WAIT_S) == 1, up.output
    assert "every producer has ended for good; " in up.output
    assert os.path.join(str(up.run_dir), "logs", "producer-1.log") in up.output
    assert "restarting" not in up.output


@pytest.mark.skipif(not zmq.has("curve"), reason="this ZeroMQ has no CURVE")
def test_the_run_s_own_producers_have_the_trainer_s_key(start: Start, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir(mode=0o700)
    public, secret = (part.decode() for part in zmq.curve_keypair())
    for name, text in (("trainer.key", json.dumps({"public": public, "secret": secret})), ("allowed", "")):
        (keys / name).touch(mode=0o600)
        (keys / name).write_text(text)
    up = start("--keys", str(keys), "--producers", "1")
    up.until(lambda: up.child("--key", str(keys / "trainer.key")) is not None, "a producer has the key")
    assert up.end(WAIT_S) == 0, up.output
    assert len(read_steps(up.run_dir)) == 10


def test_a_terminal_shows_the_run_and_what_becomes_of_its_producers(tmp_path: Path) -> None:
    settings = ["--train", f"{TRAIN} --max-steps 5000 --run-dir {tmp_path / 'run'}", "--produce", PACED.format(pace=60)]
    command = [sys.executable, *UP, *settings, "--ranks", "2", "--producers", "2"]
    env = {"OMP_NUM_THREADS": "1", "COLORTERM": "truecolor"}
    with PseudoTerminal(120, 40, command, wait_s=WAIT_S, **env) as terminal:
        terminal.shows("2/2 ready")
        assert terminal.is_second_screen, "the terminal is rank 0's alone"
        producers = {
            process.cmdline()[process.cmdline().index("--name") + 1]: process
            for process in psutil.Process(terminal.pid).children()
            if "penstock.producer" in process.cmdline()
        }
        producers["producer-1"].kill()
        terminal.shows("producer-1 on cpu is restarting in 1 s; it ended with status 137")
        terminal.shows("producer-1 on cpu is serving")
        terminal.press("\x03")
        assert terminal.ended() == 128 + signal.SIGINT
        assert terminal.is_given_back
    assert "producer-1 crashed once" in terminal.text
    assert "producer producer-0 INFO" not in terminal.text, "the lines of the others are in their logs alone"
    kept = (tmp_path / "run" / "logs" / "rank-0.log").read_text()
    assert "producer-1 on cpu is restarting in 1 s" in kept
