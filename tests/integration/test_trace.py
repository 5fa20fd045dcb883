"""A trace of real processes: clocks that are hours apart on one line, and a run of two ranks that Ctrl-C ends."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from penstock.consumer.config import StreamConfig
from penstock.consumer.ledger_reader import read_steps
from penstock.consumer.run_folder import RunFolder
from penstock.consumer.stream import GroupStream
from penstock.consumer.watching.run_trace import RunTrace
from penstock.producer.paced_engine import MODEL_DIGEST
from penstock.protocol.admission import Expectation
from penstock.protocol.dispatcher import Patience
from penstock.protocol.rank_machine import RankMachine
from penstock.protocol.sockets import RankSocket
from penstock.protocol.tickets import Ticket
from penstock.telemetry.recorder import Flow
from tests.protocol.samples import RECIPE
from tests.telemetry import trace_rules

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 110.0
"""Longer than anything takes on a busy machine; no test waits for it but one that fails."""
AHEAD_NS = (3_600 * 10**9, -(60 * 10**9))
"""An hour ahead, a minute behind: machines that were started at other times."""
NUM_GROUPS = 100
ON_ITS_WAY = ["issue", "held", "begin", "encode", "send", "receive"]
"""The stages of every group, from the rank to a producer and back."""


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _stages_of_ways(trace: dict[str, Any]) -> list[list[str]]:
    return [[stage for _, stage in way] for way in trace_rules.ways(trace)]


@pytest.mark.slow
def test_producers_whose_clocks_are_hours_apart_stand_on_one_time_line(tmp_path: Path) -> None:
    socket = RankSocket("tcp://127.0.0.1:0")
    machine = RankMachine(
        run_id="r1",
        incarnation=1,
        rank=0,
        endpoints=(socket.endpoint,),
        expects=Expectation(model_digest=MODEL_DIGEST),
        window_groups=32,
        window_bytes=1 << 30,
        patience=Patience(heartbeat_s=0.1),
        traces=True,
    )
    recipe = replace(RECIPE, model_digest=MODEL_DIGEST, height=64, width=64)
    with RunTrace(str(tmp_path / "trace.json"), RunFolder(tmp_path, "r1", 1), 0, 1) as run_trace:
        stream = GroupStream(socket, machine, StreamConfig(), recorder=run_trace.recorder)
        run_trace.producers = stream.traces
        stream.ask((Ticket(index=index, rank=0, recipe=recipe) for index in range(10**6)), lambda ticket: ticket)
        stream.start()
        command = [sys.executable, "-m", "tests.producer.shifted_producer"]
        programs = [subprocess.Popen([*command, str(ahead), socket.endpoint], cwd=ROOT) for ahead in AHEAD_NS]
        try:
            num_used = 0
            while num_used < NUM_GROUPS or sum(peer.groups > 0 for peer in stream.look().peers) < len(AHEAD_NS):
                group = stream.get()
                run_trace.recorder.mark("use", group.ticket.index, group.ticket.attempt, Flow.END)
                num_used += 1
            _until(lambda: all(peer.status is not None and peer.status.images > 0 for peer in stream.look().peers))
        finally:
            stream.close("the run is over")
            ends = [program.wait(WAIT_S) for program in programs]
    assert ends == [0, 0]
    trace = trace_rules.read(tmp_path / "trace.json")
    assert trace_rules.violations(trace) == []
    assert trace_rules.processes(trace).keys() == {"rank 0", *(f"producer shifted-{ahead}" for ahead in AHEAD_NS)}
    whole = [way for way in _stages_of_ways(trace) if way[-1] == "use"]
    # Of the tickets that were issued before the clocks were known too: a producer keeps its events until then.
    assert whole == [[*ON_ITS_WAY, "use"]] * num_used
    spans = {event["name"]: event for event in trace["traceEvents"] if event["ph"] == "X"}
    assert all(0 <= span["ts"] < WAIT_S * 1e6 for span in spans.values()), "in µs: no hour stands between any of them"


@contextlib.contextmanager
def _two_ranks(tmp_path: Path, trace: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Two ranks with a producer of their own, some steps into their run; what is left of them is killed."""
    run_dir = tmp_path / "run"
    settings = ["--config", "demo", "--groups-per-step", "4", "--reservoir.capacity-groups", "16"]
    settings += ["--generator.images-per-group", "2", "--generator.height", "32", "--generator.width", "32"]
    settings += ["--evaluation.data", "none", "--max-steps", "100000"]
    settings += ["--fleet.local-producers", "1", "--stream.window-groups", "16"]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--quiet"]
    command += ["-m", "penstock.consumer", *settings, "--run-dir", str(run_dir), "--trace", str(trace)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1", "HF_HOME": str(tmp_path / "hf")}
    with (tmp_path / "log").open("w") as output:
        program = subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True
        )
    try:
        _until(lambda: len(read_steps(run_dir)) >= 6 or program.poll() is not None)
        yield program
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
        program.wait()


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(300)
def test_ctrl_c_leaves_a_trace_of_all_ranks_and_producers(tmp_path: Path) -> None:
    run_dir, path, log = tmp_path / "run", tmp_path / "trace.json.gz", tmp_path / "log"
    with _two_ranks(tmp_path, path) as program:
        os.killpg(program.pid, signal.SIGINT)
        _until(path.exists)  # the launcher does not wait for the ranks
    trace = trace_rules.read(path)
    assert trace_rules.violations(trace) == []
    numbers = trace_rules.processes(trace)
    assert [name.split("-")[0] for name in numbers] == ["rank 0", "rank 1", "producer local"], log.read_text()
    trained = {"issue", "receive", "enter", "collate", "copy", "wait_batch", "use", "step"}
    made = {"held", "begin", "generate", "wait_tickets", "finish", "encode", "send", "acknowledged"}
    assert trained <= trace_rules.stages(trace, numbers["rank 0"]) & trace_rules.stages(trace, numbers["rank 1"])
    [producer] = [number for name, number in numbers.items() if name.startswith("producer")]
    assert made | {"text", "denoise", "decode"} <= trace_rules.stages(trace, producer)
    whole = [way for way in _stages_of_ways(trace) if way[-1] == "use" and way[0] == "issue"]
    assert [*ON_ITS_WAY, "enter", "use"] in whole
    assert [*run_dir.glob("trace-*")] == []


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.alone
@pytest.mark.timeout(300)
def test_a_rank_that_was_killed_is_missing_in_the_trace_and_nothing_else(tmp_path: Path) -> None:
    path, log = tmp_path / "trace.json", tmp_path / "log"
    with _two_ranks(tmp_path, path) as program:
        [victim] = [
            child
            for child in psutil.Process(program.pid).children(recursive=True)
            if child.environ().get("RANK") == "1"
        ]
        victim.kill()
        program.wait(WAIT_S)
    assert "the trace lacks rank 1" in log.read_text()
    trace = trace_rules.read(path)
    assert trace_rules.violations(trace) == []
    assert [name.split("-")[0] for name in trace_rules.processes(trace)] == ["rank 0", "producer local"]
