"""Real runs as real processes: trainer, producers, signals, and input that cannot work.

Runs are short and shared between tests. Whatever a run starts carries a mark in its environment, so that nothing that
it leaves behind goes unseen.
"""

import contextlib
import json
import os
import signal
import socket as plain_socket
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgpack
import psutil
import pytest
import zmq

from penstock.consumer import run_folder
from penstock.consumer.ledger_reader import LedgerReader, read_steps
from penstock.toyworld.captions import DIGIT_WORDS, digit_of

ROOT = Path(__file__).resolve().parents[2]
MARK = "PENSTOCK_TEST_MARK"
WAIT_S = 110.0
"""Longer than anything takes on a busy machine; no test waits for it but one that fails."""
END_S = 15.0
"""From a signal to the end of the last process."""

pytestmark = pytest.mark.alone

TRAINER = [sys.executable, "-m", "penstock.consumer"]
PRODUCER = [sys.executable, "-m", "penstock.producer"]
ACCELERATE = [str(Path(sys.executable).with_name("accelerate")), "launch", "--quiet", "--cpu"]
SHORT = ["--config", "demo", "--groups-per-step", "8", "--reservoir.capacity-groups", "16"]
SHORT += ["--fleet.local-producers", "1", "--stream.window-groups", "16", "--reservoir.reuse", "16"]
SHORT += ["--generator.images-per-group", "4", "--generator.height", "32", "--generator.width", "32"]
NO_PRODUCER = ["--config", "demo", "--fleet.local-producers", "0", "--evaluation.data", "none"]


class Program:
    """A process of ours with all that it starts."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.mark = uuid.uuid4().hex
        self.log = log
        home = log.parent
        env = os.environ | {MARK: self.mark, "OMP_NUM_THREADS": "1", "HF_HOME": str(home / "hf"), "NO_COLOR": "1"}
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def family(self) -> list[psutil.Process]:
        """Every living process that carries our mark."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)

    def end(self, timeout_s: float = WAIT_S) -> int:
        """Wait for the end; its exit status, as a shell says it.

        Where Ctrl-C comes in the middle of `exec`, CPython ends by the signal itself, whatever status it was told.
        """
        try:
            status = self.process.wait(timeout_s)
            return status if status >= 0 else 128 - status
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout_s} s:\n{self.output}") from None

    def all_ended(self, within_s: float) -> bool:
        deadline = time.monotonic() + within_s
        while self.family():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def kill(self) -> None:
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                process.kill()
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Program]]:
    programs: list[Program] = []

    def start_program(*command: str) -> Program:
        log = tmp_path_factory.mktemp("program") / "output.log"
        programs.append(Program(list(command), log))
        return programs[-1]

    yield start_program
    for program in programs:
        program.kill()


Start = Callable[..., Program]


def _shared_memory() -> set[str]:
    folder = Path("/dev/shm")
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _steps(run_dir: Path) -> int:
    """Steps that the ledger of a run in progress shows so far."""
    return len(read_steps(run_dir))


# --- runs that work ----------------------------------------------------------------------------------


@dataclass
class Run:
    """A finished run."""

    path: Path
    program: Program
    code: int
    pids: set[int]
    new_shared_memory: set[str]


def _finish(program: Program, run_dir: Path) -> Run:
    before, pids = _shared_memory(), set[int]()
    deadline = time.monotonic() + WAIT_S
    while program.process.poll() is None and time.monotonic() < deadline:
        pids |= {process.pid for process in program.family()}
        time.sleep(0.2)
    code = program.end(0.1)
    return Run(run_dir, program, code, pids, _shared_memory() - before)


@pytest.fixture(scope="module")
def one_rank(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """`accelerate launch consumer --config demo`, to the letter but for its length."""
    run_dir = tmp_path_factory.mktemp("one") / "run"
    command = [*ACCELERATE, "--num_processes", "1", "consumer", *SHORT]
    return _finish(start(*command, "--max-steps", "6", "--run-dir", str(run_dir)), run_dir)


@pytest.fixture(scope="module")
def two_ranks(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run_dir = tmp_path_factory.mktemp("two") / "run"
    command = [*ACCELERATE, "--num_processes", "2", "consumer", *SHORT, "--evaluation.data", "none"]
    return _finish(start(*command, "--max-steps", "4", "--run-dir", str(run_dir)), run_dir)


@pytest.mark.slow
def test_a_run_ends_well_and_says_what_it_did(one_rank: Run) -> None:
    assert one_rank.code == 0, one_rank.program.output
    summary = json.loads((one_rank.path / "summary.json").read_text())
    keys = "schema_version run_id seconds producers world_size steps images_generated images_trained reuse_factor "
    keys += (
        "groups_by_uses producer_images_per_s trainer_images_per_s data_wait_fraction bytes_received messages_rejected "
    )
    keys += "tickets_expired tickets_hedged tickets_quarantined image_bytes_written knn objective steps_skipped rankme "
    keys += "concepts filter"
    assert list(summary) == keys.split()
    assert set(summary["knn"]) == {"before", "after", "raw_scans_after", "pixels", "k", "temperature"}
    assert (summary["world_size"], summary["steps"], summary["producers"]) == (1, 6, 1)
    assert summary["images_trained"] == 6 * 8 * 4
    assert summary["images_generated"] >= 8 * 4
    assert summary["bytes_received"] == summary["images_generated"] * 32 * 32 * 3
    assert summary["image_bytes_written"] == 0
    assert (summary["knn"]["k"], summary["knn"]["temperature"]) == (20, 0.07)
    assert "Traceback" not in one_rank.program.output


@pytest.mark.slow
def test_a_run_leaves_no_image_but_the_one_picture(one_rank: Run) -> None:
    images = {".png", ".jpg", ".jpeg", ".npy", ".npz", ".webp", ".tar", ".pt"}
    found = [path.name for path in one_rank.path.rglob("*") if path.suffix in images]
    assert found == ["picture.png"]
    assert (one_rank.path / "picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_transformers_loads_the_trained_encoder(one_rank: Run) -> None:
    import torch
    from transformers import AutoModel

    torch.set_num_threads(1)
    encoder = AutoModel.from_pretrained(one_rank.path / "encoder")
    with torch.inference_mode():
        features = encoder(pixel_values=torch.zeros(1, 3, 32, 32)).last_hidden_state
    config = encoder.config
    assert config.model_type == "vit"
    assert features.shape == (1, 1 + (32 // config.patch_size) ** 2, config.hidden_size)
    assert torch.isfinite(features).all()


@pytest.mark.slow
@pytest.mark.parametrize("run", ["one_rank", "two_ranks"])
def test_a_run_leaves_no_process_and_no_shared_memory(run: str, request: pytest.FixtureRequest) -> None:
    finished: Run = request.getfixturevalue(run)
    assert finished.program.family() == []
    assert len(finished.pids) >= 2, "trainer and producer were seen"
    left = [name for name in finished.new_shared_memory if any(str(pid) in name for pid in finished.pids)]
    assert left == []


@pytest.mark.slow
def test_the_ledger_accounts_for_every_group_of_every_step(one_rank: Run) -> None:
    with LedgerReader(one_rank.path) as ledger:
        (life,) = ledger.lives
        groups = [group.index for group in ledger.groups()]
    assert {"life", "rank", "world_size", "run_id", "model_digest", "seed"} <= set(life)
    steps = read_steps(one_rank.path)
    assert len(set(groups)) == len(groups)
    assert list(steps) == list(range(6))
    assert all(len(set(used)) == 8 and set(used) <= set(groups) for used in steps.values())


@pytest.mark.slow
def test_two_ranks_are_fed_each_with_groups_of_its_own(two_ranks: Run) -> None:
    assert two_ranks.code == 0, two_ranks.program.output
    assert "Traceback" not in two_ranks.program.output
    summary = json.loads((two_ranks.path / "summary.json").read_text())
    assert (summary["world_size"], summary["steps"], summary["images_trained"]) == (2, 4, 4 * 8 * 4)
    with LedgerReader(two_ranks.path) as ledger:
        groups = [use.group for step in ledger.steps for use in ledger.uses(step)]
    for rank in range(2):
        used = [group.index for group in groups if group.rank == rank]
        assert len(used) == 4 * 4
        assert {index % 2 for index in used} == {rank}


@pytest.mark.slow
def test_resume_goes_on_where_the_checkpoint_stands(
    start: Start, one_rank: Run, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Last of the tests of this run: it changes the folder."""
    assert one_rank.code == 0
    command = [*TRAINER, *SHORT, "--run-dir", str(one_rank.path), "--evaluation.data", "none"]
    resumed = start(*command, "--max-steps", "9", "--resume")
    assert resumed.end() == 0, resumed.output
    steps = read_steps(one_rank.path)
    assert list(steps) == list(range(9))
    with LedgerReader(one_rank.path) as ledger:
        first, second = [life["life"] for life in ledger.lives]
        prompts = {group.index: group.recipe.prompt for group in ledger.groups()}
    assert first < second
    echoes = [index for used in steps.values() for index in used]
    assert max(echoes.count(index) for index in set(echoes)) <= 16
    assert json.loads((one_rank.path / "checkpoint" / "state.json").read_text())["step"] == 9
    summary = json.loads((one_rank.path / "summary.json").read_text())
    assert (summary["steps"], summary["images_trained"]) == (9, 9 * 8 * 4), "the summary tells both lives"
    assert summary["images_generated"] * 32 * 32 * 3 == summary["bytes_received"]
    assert summary["images_generated"] >= 4 * len(set(echoes))
    assert summary["knn"]["before"] is not None
    trained_on = Counter(DIGIT_WORDS[digit_of(prompts[index])] for index in set(echoes))
    assert {word: count for word, count in summary["concepts"]["groups"].items() if count} == trained_on


# --- signals -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_trainer_ends_it_and_its_producers(
    number: signal.Signals, start: Start, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    command = [*TRAINER, *SHORT, "--evaluation.data", "none", "--run-dir", str(run_dir)]
    trainer = start(*command, "--max-steps", "100000")
    trainer.until(lambda: _steps(run_dir) >= 1)
    assert len(trainer.family()) == 2
    sent = time.monotonic()
    trainer.process.send_signal(number)
    assert trainer.end(END_S + 1) == 128 + number
    assert trainer.all_ended(max(0.1, sent + END_S - time.monotonic())), trainer.family()
    assert "Traceback" not in trainer.output
    assert "Traceback" not in (run_dir / "producer-0.log").read_text()


@pytest.mark.slow
def test_a_killed_trainer_leaves_no_producer(start: Start, tmp_path: Path) -> None:
    command = [*TRAINER, *SHORT, "--run-dir", str(tmp_path / "run")]
    trainer = start(*command, "--max-steps", "100000")
    log = tmp_path / "run" / "producer-0.log"
    trainer.until(lambda: log.exists() and "digest" in log.read_text())
    trainer.process.kill()
    trainer.process.wait()
    assert trainer.all_ended(END_S), trainer.family()


@pytest.mark.slow
def test_a_signal_to_a_producer_ends_it_in_order(start: Start) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM)
    options = ["--config", "demo", "--connect", "tcp://127.0.0.1:1", "--name", "ann"]
    producers = {number: start(*PRODUCER, *options) for number in numbers}
    for producer in producers.values():
        producer.until(lambda producer=producer: "digest" in producer.output)  # type: ignore[misc]
    for number, producer in producers.items():
        producer.process.send_signal(number)
        assert producer.end(END_S) == 128 + number
        assert producer.family() == []
        assert "Traceback" not in producer.output


# --- input that cannot work --------------------------------------------------------------------------


def _refused(program: Program, *words: str, code: int = 1, timeout_s: float = WAIT_S) -> None:
    """The program ends by one line that begins with `error:` and holds these words."""
    assert program.end(timeout_s) == code, program.output
    assert "Traceback" not in program.output
    errors = [line for line in program.output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, program.output
    assert program.output.splitlines()[-1] == errors[0]
    for word in words:
        assert word in errors[0]
    assert program.family() == []


def test_a_missing_model_folder_is_one_line(start: Start) -> None:
    _refused(start(*PRODUCER, "--model", "/no/such/folder"), "/no/such/folder", "no such folder")


def test_a_port_in_use_is_one_line_and_costs_no_earlier_run(start: Start, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "run.json").write_text('{"run_id": "r", "incarnation": 1}')
    (run_dir / "summary.json").write_text("precious")
    with plain_socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        options = ["--stream.endpoint", endpoint, "--run-dir", str(run_dir), "--overwrite"]
        _refused(start(*TRAINER, *NO_PRODUCER, *options), endpoint, "in use")
    assert (run_dir / "summary.json").read_text() == "precious"


def test_captions_without_concepts_are_one_line_and_cost_no_earlier_run(start: Start, tmp_path: Path) -> None:
    run_dir, captions = tmp_path / "run", tmp_path / "captions.txt"
    captions.write_text("a fox\na dog\n")
    run_dir.mkdir()
    (run_dir / "run.json").write_text('{"run_id": "r", "incarnation": 1}')
    (run_dir / "summary.json").write_text("precious")
    options = ["--objective.name", "supervised", "--prompts.source", str(captions)]
    program = start(*TRAINER, *NO_PRODUCER, *options, "--run-dir", str(run_dir), "--overwrite")
    _refused(program, "at least 2 concepts", "CONCEPT<tab>CAPTION", code=2)
    assert (run_dir / "summary.json").read_text() == "precious"


def test_an_address_beyond_this_machine_is_one_line(start: Start, tmp_path: Path) -> None:
    options = ["--stream.endpoint", "tcp://192.0.2.1:0", "--run-dir", str(tmp_path / "run")]
    _refused(start(*TRAINER, *NO_PRODUCER, *options), "192.0.2.1", "insecure")


def test_an_unknown_key_names_file_line_and_the_nearest_key(start: Start, tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("max_steps: 5\nobjective:\n  temperatur: 0.1\n")
    program = start(*TRAINER, "--config", str(config))
    _refused(program, "mine.yaml:3", "objective.temperatur", "'temperature'", code=2)


def test_an_unknown_flag_names_the_nearest(start: Start) -> None:
    _refused(start(*TRAINER, "--config", "demo", "--max-step", "5"), "--max-step", "--max-steps", code=2)


def test_a_run_folder_that_is_taken_is_one_line_and_stays(start: Start, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("precious")
    program = start(*TRAINER, *NO_PRODUCER, "--run-dir", str(tmp_path))
    _refused(program, str(tmp_path), "--overwrite")
    assert (tmp_path / "notes.txt").read_text() == "precious"


def test_a_second_trainer_in_the_folder_is_one_line(start: Start, tmp_path: Path) -> None:
    with run_folder.lock(tmp_path):
        _refused(start(*TRAINER, *NO_PRODUCER, "--run-dir", str(tmp_path)), str(tmp_path), "another trainer is running")
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".log"] == ["run.lock"]


def test_nothing_to_resume_is_one_line(start: Start, tmp_path: Path) -> None:
    _refused(start(*TRAINER, *NO_PRODUCER, "--run-dir", str(tmp_path), "--resume"), "no checkpoint")


def test_prompts_that_are_not_there_are_one_line(start: Start, tmp_path: Path) -> None:
    options = ["--prompts.source", str(tmp_path / "none.txt"), "--run-dir", str(tmp_path / "run")]
    _refused(start(*TRAINER, *NO_PRODUCER, *options), "none.txt", code=2)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_local_producers_that_cannot_start_end_the_run_with_their_words(start: Start, tmp_path: Path) -> None:
    config = tmp_path / "broken.yaml"
    config.write_text("model: /no/such/folder\n")
    options = ["--fleet.local-producers", "1", "--fleet.local-producer-config", str(config)]
    program = start(*TRAINER, *NO_PRODUCER, *options, "--run-dir", str(tmp_path / "run"))
    _refused(program, "every local producer has ended", "/no/such/folder")


@pytest.mark.slow
def test_a_producer_of_another_version_is_refused_and_one_that_never_comes_is_missed(
    start: Start, tmp_path: Path
) -> None:
    with plain_socket.create_server(("127.0.0.1", 0)) as free:
        endpoint = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    options = ["--stream.endpoint", endpoint, "--stream.producer-timeout-s", "4"]
    trainer = start(*TRAINER, *NO_PRODUCER, *options, "--run-dir", str(tmp_path / "run"))
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.setsockopt(zmq.RCVTIMEO, int(WAIT_S * 1000))
    try:
        dealer.connect(endpoint)
        dealer.send(msgpack.packb({"v": 99, "t": "HELLO", "greeting": "from the future"}))
        answer = msgpack.unpackb(dealer.recv())
    finally:
        dealer.close()
        context.term()
    assert answer["t"] == "REJECT"
    assert "99" in answer["reason"]
    assert f"version {answer['v']}" in answer["reason"]
    _refused(trainer, "no producer came in 4 s", f"penstock produce --connect {endpoint}")
