"""How `penstock up` sees to its processes, with scripts in their place."""

import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from penstock.config.process import Terminated
from penstock.consumer import run_folder
from penstock.deploy import up_run
from penstock.deploy.up_logs import Logs
from penstock.deploy.up_processes import Process
from penstock.deploy.up_run import UpRun
from tests.faults.programs import wait_until
from tests.producer.device_programs import alive

PREAMBLE = "import json, logging, os, sys, time\nfrom penstock.config import process\n"
LISTEN = """
with open("{run}/run.json", "w") as file:
    json.dump({{"run_id": "r", "incarnation": time.time_ns(), "endpoint": "{endpoint}"}}, file)
"""
FOREVER = "time.sleep(600)"
UNTIL_ASKED = "process.run(lambda: time.sleep(600))"
"""As a program of Penstock: ends with 143 by SIGTERM, and when its standard input closes."""
UP = "print('12:00:00 producer producer-{number} INFO: ready for rank 0 at tcp://a:1', flush=True)"
CRASH = "print('boom', flush=True); os._exit(70)"
REFUSED = "print('error: no such model', flush=True); sys.exit(1)"


@dataclass
class Scripts:
    """Stands for the processes of a run."""

    run_dir: Path
    rank_scripts: Sequence[str]
    producer_scripts: Sequence[str]
    endpoint: str = "tcp://127.0.0.1:4242"

    @property
    def train(self) -> Any:
        return SimpleNamespace(run_dir=self.run_dir)

    def ranks(self, more: Sequence[str] = ()) -> list[Process]:
        return [self._process("rank", number, script) for number, script in enumerate(self.rank_scripts)]

    def producers(self, endpoint: str) -> list[Process]:
        assert endpoint == self.endpoint
        return [self._process("producer", number, script) for number, script in enumerate(self.producer_scripts)]

    def _process(self, kind: str, number: int, script: str) -> Process:
        source = script.replace("{number}", str(number)).replace("{run}", str(self.run_dir))
        source = source.replace("LISTEN", LISTEN.format(run=self.run_dir, endpoint=self.endpoint))
        return Process(f"{kind}-{number}", "cpu", [sys.executable, "-c", PREAMBLE + source], {})


class Live:
    """A run in a thread's place: `run` is called in the test's own thread, what is to happen meanwhile in another."""

    def __init__(self, run: UpRun) -> None:
        self.run = run
        self.seen: set[int] = set()
        self.is_over = False
        self._has_happened = False

    def until_end(self, *then: Callable[["Live"], None]) -> int:
        """The exit status, where these happen one after another while it runs."""

        def happen() -> None:
            try:
                for each in then:
                    each(self)
                self._has_happened = True
            finally:
                if not self._has_happened:
                    self.run._asks(signal.SIGTERM)()

        thread = threading.Thread(target=happen)
        thread.start()
        try:
            status = self.run.run()
        finally:
            self.is_over = True
            thread.join()
        assert self._has_happened
        assert not any(alive(pid) for pid in self.seen)
        return status

    def pid(self, name: str) -> int:
        """Of a process that runs."""

        def found() -> bool:
            for child in [*self.run.ranks, *self.run.producers]:
                if child.name == name and child.process is not None:
                    self.seen.add(child.process.pid)
                    return True
            return False

        wait_until(found, f"{name} runs")
        (process,) = [c.process for c in [*self.run.ranks, *self.run.producers] if c.name == name]
        assert process is not None
        return process.pid


Start = Callable[..., Live]


@pytest.fixture
def start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Start]:
    """Prepares runs of scripts; nothing of them is left when the test ends."""
    made: list[Live] = []
    caplog.set_level("INFO", "penstock")
    with contextlib.ExitStack() as stack:

        def start_one(
            ranks: Sequence[str], producers: Sequence[str] = (), *, gives_terminal: bool = False, **more: Any
        ) -> Live:
            logs = stack.enter_context(Logs(tmp_path, 10, keeps=False, shows=not gives_terminal))
            run = UpRun(Scripts(tmp_path, ranks, producers, **more), logs, gives_terminal=gives_terminal)  # type: ignore[arg-type]
            made.append(Live(run))
            return made[-1]

        yield start_one
        for live in made:
            live.run._kill()


def said(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records)


def until_said(caplog: pytest.LogCaptureFixture, words: str) -> Callable[[Live], None]:
    return lambda live: wait_until(lambda: words in said(caplog), words) and None


def kill(name: str) -> Callable[[Live], None]:
    return lambda live: os.kill(live.pid(name), signal.SIGKILL)


def send(number: signal.Signals) -> Callable[[Live], None]:
    def to_this_process(live: Live) -> None:
        assert not live.is_over
        os.kill(os.getpid(), number)

    return to_this_process


def test_the_run_is_over_when_the_ranks_are(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up_run, "_OVER_S", 0.5)
    until_told = f"{UP}; sys.stdin.read()"
    live = start(["LISTEN\ntime.sleep(0.5)", "time.sleep(0.3)"], [until_told, "pass"])
    begun = time.monotonic()
    assert live.until_end(lambda live: live.pid("producer-0") and None) == 0
    assert time.monotonic() - begun < up_run._CLOSE_S + 4, "what has not heard of it is ended"


def test_each_process_has_a_log_and_one_view_shows_all(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    live = start(["LISTEN\nprint('hello from the rank', flush=True); time.sleep(1)"], ["print('hello from me')"])
    assert live.until_end() == 0
    assert (tmp_path / "logs" / "rank-0.log").read_text() == "hello from the rank\n"
    assert (tmp_path / "logs" / "producer-0.log").read_text() == "hello from me\n"
    err = capsys.readouterr().err.splitlines()
    assert "rank-0     | hello from the rank" in err
    assert "producer-0 | hello from me" in err
    assert "producer-0 on cpu is starting" in (tmp_path / "logs" / "up.log").read_text()


def test_producers_start_when_this_life_of_the_run_listens(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []

    def look(path: Path, incarnation: int | None) -> str:
        looks.append(run_folder.endpoint_after(path, incarnation))
        return looks[-1]

    monkeypatch.setattr(up_run, "run_folder", SimpleNamespace(endpoint_after=look, read=run_folder.read))
    earlier = {"run_id": "r", "incarnation": 7, "endpoint": "tcp://127.0.0.1:1"}
    (tmp_path / "run.json").write_text(json.dumps(earlier))
    wait = f"while not os.path.exists('{tmp_path}/go'): time.sleep(0.01)\n"
    live = start([f"{wait}LISTEN\n{UNTIL_ASKED}"], [UNTIL_ASKED])

    def not_yet(live: Live) -> None:
        live.pid("rank-0")
        wait_until(lambda: len(looks) >= 2, "it has looked twice")
        assert looks == [""] * len(looks)
        (tmp_path / "go").touch()
        live.pid("producer-0")

    assert live.until_end(not_yet, send(signal.SIGTERM)) == 143


def test_a_producer_that_crashes_is_started_again(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    live = start([f"LISTEN\n{UNTIL_ASKED}"], [f"{UP}; {UNTIL_ASKED}"])
    first: list[int] = []

    def another(live: Live) -> None:
        wait_until(lambda: live.pid("producer-0") != first[0], "another life")

    status = live.until_end(
        lambda live: first.append(live.pid("producer-0")),
        until_said(caplog, "producer-0 on cpu is serving"),
        kill("producer-0"),
        until_said(caplog, "producer-0 on cpu is restarting in 1 s; it ended with status 137"),
        another,
        send(signal.SIGTERM),
    )
    assert status == 143
    assert live.run.producers[0].num_crashes == 1


@pytest.mark.parametrize(
    ("end", "status", "words"),
    [
        ("print('error: no batch', flush=True); sys.exit(2)", 2, "rank-1 has ended with status 2: error: no batch"),
        (CRASH, 70, "rank-1 has crashed (status 70); the last lines of {run}/logs/rank-1.log:\n    boom"),
        ("os.kill(os.getpid(), 9)", 137, "rank-1 has crashed (status 137)"),
    ],
)
def test_when_a_rank_fails_all_end_with_its_status(
    start: Start, caplog: pytest.LogCaptureFixture, tmp_path: Path, end: str, status: int, words: str
) -> None:
    wait = f"while not os.path.exists('{tmp_path}/go'): time.sleep(0.01)\n"
    live = start([f"LISTEN\n{UNTIL_ASKED}", f"{wait}{end}"], [UNTIL_ASKED])

    def go(live: Live) -> None:
        for name in ("rank-0", "rank-1", "producer-0"):
            live.pid(name)
        (tmp_path / "go").touch()

    assert live.until_end(go) == status
    assert words.replace("{run}", str(tmp_path)) in said(caplog)


def test_a_rank_that_does_not_end_is_killed(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(up_run, "_END_S", 0.3)
    stubborn = f"import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True)\n{FOREVER}"
    live = start([stubborn])
    wait = [lambda live: live.pid("rank-0") and None, lambda live: _until_line(live, "up"), send(signal.SIGTERM)]
    assert live.until_end(*wait) == 143
    assert "rank-0 has not ended within 0.3 s; it is killed" in said(caplog)


def _until_line(live: Live, line: str) -> None:
    wait_until(lambda: live.run.ranks[0].last_line == line, f"the rank says {line}")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_ends_all_in_order(start: Start, tmp_path: Path, number: signal.Signals, status: int) -> None:
    goodbye = "process.run(lambda: exec('try: time.sleep(600)\\nfinally: print(\"goodbye\", flush=True)'))"
    live = start([f"LISTEN\nprint('up', flush=True)\n{goodbye}"], [UNTIL_ASKED])
    both = [lambda live: live.pid("rank-0") and None, lambda live: live.pid("producer-0") and None]
    assert live.until_end(*both, lambda live: _until_line(live, "up"), send(number)) == status
    assert (tmp_path / "logs" / "rank-0.log").read_text() == "up\ngoodbye\n"


def test_a_second_signal_ends_all_at_once(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    stubborn = f"import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True)\n{FOREVER}"
    live = start([stubborn])
    begun = time.monotonic()
    steps = [lambda live: live.pid("rank-0") and None, lambda live: _until_line(live, "up"), send(signal.SIGINT)]
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        with pytest.raises(Terminated):
            live.until_end(*steps, until_said(caplog, "ending all processes"), send(signal.SIGINT))
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    assert time.monotonic() - begun < up_run._END_S
    assert not any(alive(pid) for pid in live.seen)


def test_when_every_producer_has_failed_for_good_the_run_ends(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    live = start([f"LISTEN\n{UNTIL_ASKED}"], [REFUSED, "sys.exit(2)"])
    assert live.until_end(lambda live: live.pid("rank-0") and None) == 2
    assert "every producer has ended for good; " in said(caplog)


def test_where_producers_of_other_machines_may_come_the_run_goes_on(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    live = start([f"LISTEN\n{UNTIL_ASKED}"], [REFUSED], endpoint="tcp://10.0.0.7:5599")
    words = "no producer is left on this machine; the run goes on with those of others"
    assert live.until_end(until_said(caplog, words), send(signal.SIGTERM)) == 143
    assert said(caplog).count(words) == 1


def test_producers_that_hear_first_that_the_run_is_over_do_not_end_it(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wait = f"while not os.path.exists('{tmp_path}/go'): time.sleep(0.01)\n"
    live = start([f"LISTEN\n{wait}"], ["pass"])
    heard = until_said(caplog, "producer-0 on cpu has ended for good with status 0")
    assert live.until_end(heard, lambda live: (tmp_path / "go").touch()) == 0
    assert live.run.ranks[0].status == 0, "it has ended by itself"
    assert "every producer" not in said(caplog)


def test_nobody_is_started_again_when_the_run_is_over(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(up_run, "_OVER_S", 1.5)  # longer than a crashed producer waits
    wait = f"while not os.path.exists('{tmp_path}/go'): time.sleep(0.01)\n"
    live = start([f"LISTEN\n{wait}"], [CRASH, UNTIL_ASKED])
    crashed = until_said(caplog, "producer-0 on cpu is restarting in 1 s")
    assert live.until_end(crashed, lambda live: (tmp_path / "go").touch()) == 0
    assert said(caplog).count("producer-0 on cpu is starting") == 1


def test_the_rank_that_has_the_terminal_says_what_up_has_to_say(
    start: Start, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    body = "process.configure_logging('rank 0'); exec(open('{run}/listen').read())\n    time.sleep(600)"
    (tmp_path / "listen").write_text(PREAMBLE + LISTEN.format(run=tmp_path, endpoint="tcp://127.0.0.1:4242"))
    live = start([f"def main():\n    {body}\nprocess.run(main)"], [f"{UP}; {UNTIL_ASKED}"], gives_terminal=True)
    log = tmp_path / "logs" / "rank-0.log"

    def until_logged(live: Live) -> None:
        live.pid("producer-0")
        wait_until(lambda: log.exists() and "producer-0 on cpu is serving" in log.read_text(), "it is in the log")

    assert live.until_end(until_logged, send(signal.SIGTERM)) == 143
    shown = capfd.readouterr().err
    assert " rank 0 INFO: producer-0 on cpu is serving\n" in shown
    assert "producer-0 | " not in shown, "the lines of the others are in their logs alone"
    assert "ready for rank 0" in (tmp_path / "logs" / "producer-0.log").read_text()
    handlers = logging.getLogger().handlers
    assert not any(type(handler).__name__ == "_Relay" for handler in handlers), "it says things itself again"


def test_no_process_outlives_one_that_is_killed(tmp_path: Path) -> None:
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).resolve().parents[2])!r})
from pathlib import Path
from penstock.config import process
from penstock.deploy.up_logs import Logs
from penstock.deploy.up_run import UpRun
from tests.deploy.test_up_run import Scripts, UNTIL_ASKED
run_dir = Path({str(tmp_path)!r})
def main():
    with Logs(run_dir, 10, keeps=False, shows=True) as logs:
        return UpRun(Scripts(run_dir, ["LISTEN\\n" + UNTIL_ASKED], [UNTIL_ASKED]), logs, gives_terminal=False).run()
process.run(main)
"""
    outer = psutil.Popen([sys.executable, "-c", program])
    wait_until(lambda: len(outer.children()) == 2, "a rank and a producer run")
    pids = [child.pid for child in outer.children()]
    outer.kill()
    outer.wait()
    wait_until(lambda: not any(alive(pid) for pid in pids), "they have ended", within_s=8.0)
