"""Sees to the processes of one run on this machine: the ranks, which end it, and the producers, which come and go.

First the ranks; when rank 0 listens, the producers, which are started again when they crash. The run is over when the
ranks are; when one of them fails, nobody goes on without it. However this ends, no process is left, and none outlives
this one: each ends when its standard input closes.
"""

import logging
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from penstock.config import children
from penstock.config.address import parse_address
from penstock.config.logged_child import LoggedChild
from penstock.config.process import EXIT_DEFECT, LOG_FILE, ending_gently
from penstock.consumer import run_folder
from penstock.deploy.up_logs import Logs
from penstock.deploy.up_processes import Process, Processes
from penstock.producer.device_child import ASKED, DeviceChild
from penstock.producer.device_fleet import worst
from penstock.protocol.errors import RunError

_log = logging.getLogger(__name__)

_TICK_S = 0.1
_END_S = 10.0
"""How long the ranks may take to end before they are killed: rank 0 says goodbye to the producers, and waits for what
the others leave for its trace."""
_OVER_S = 5.0
"""How long producers may take to hear that the run is over, and to end by themselves."""
_CLOSE_S = 3.0
"""How long what is asked to end at once may take before it is killed."""
_LAST_LINES = 15
"""Of the log of a rank that has crashed."""


class Rank(LoggedChild):
    """A rank, which has one life.

    Args:
        process: what starts it.
        logs: take its output.
        has_terminal: it writes to this process's own standard output and error instead.
    """

    def __init__(self, process: Process, logs: Logs, *, has_terminal: bool) -> None:
        self.status: int | None = None
        """The exit status, once it has ended."""
        self.has_terminal = has_terminal
        env = dict(process.env) | ({LOG_FILE: str(logs.path(process.name))} if has_terminal else {})
        pass_on = None if has_terminal else logs.of(process.name)
        super().__init__(process.name, process.command, env, pass_on)

    def start(self) -> None:
        """Start it. Raises OSError."""
        if not self.has_terminal:
            super().start()
            return
        self.process = children.start(self._command, env=self._env)

    def look(self) -> bool:
        """See whether it has ended; True the first time that it has."""
        if self.status is not None or (status := self.poll()) is None:
            return False
        self.clear_up()
        self.status = status
        return True

    def ask_to_end(self) -> None:
        """Begin its orderly end."""
        if self.process is not None:
            self.process.terminate()


class UpRun:
    """One run.

    Args:
        processes: what is started.
        logs: take what they say.
        gives_terminal: rank 0 gets this process's standard output and error.
        rank_arguments: further ones of the ranks.
    """

    def __init__(
        self, processes: Processes, logs: Logs, *, gives_terminal: bool, rank_arguments: Sequence[str] = ()
    ) -> None:
        self._processes = processes
        self._logs = logs
        self._run_dir = processes.train.run_dir
        self.ranks = [
            Rank(process, logs, has_terminal=gives_terminal and number == 0)
            for number, process in enumerate(processes.ranks(rank_arguments))
        ]
        self.producers: list[DeviceChild] = []
        """Empty before rank 0 listens."""
        self.endpoint = ""
        """Where rank 0 listens; empty before it does."""
        self._earlier = _incarnation(self._run_dir)
        self._signal = 0
        self._is_bereft = False
        """Whether it has been said that no producer is left here."""

    def run(self) -> int:
        """Run it to its end. Returns the exit status: the ranks', or 128 + n where signal n asked for the end."""
        with ExitStack() as stack:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                if signal.getsignal(number) != signal.SIG_IGN:  # nohup
                    stack.enter_context(ending_gently(self._asks(number), number))
            try:
                self._start_ranks()
                while not self._is_ending():
                    time.sleep(_TICK_S)
                    self._step(time.monotonic())
                is_done = all(rank.status == 0 for rank in self.ranks)
                status = self._tell_why()
                self._end_ranks()
                self._end_producers(_OVER_S if is_done else 0.0)
            finally:
                self._kill()
        return status

    def log_of(self, child: LoggedChild) -> Path:
        """Where the lines of a process are kept."""
        return self._logs.path(child.name)

    def _asks(self, number: signal.Signals) -> Callable[[], bool]:
        """What a signal's handler begins the end with, once."""

        def ask() -> bool:
            if self._signal:
                return False
            self._signal = number
            return True

        return ask

    def _start_ranks(self) -> None:
        for rank in self.ranks:
            rank.start()
            if rank.has_terminal and rank.process is not None and rank.process.stdin is not None:
                self._logs.tell_through(rank.process.stdin.fileno())

    def _step(self, now: float) -> None:
        self._look_at_ranks()
        if not self.endpoint:
            self.endpoint = run_folder.endpoint_after(self._run_dir, self._earlier)
            if self.endpoint:
                self.producers = [
                    DeviceChild(made.name, made.place, made.command, made.env, self._logs.of(made.name))
                    for made in self._processes.producers(self.endpoint)
                ]
        self._step_producers(now, may_start=all(rank.status is None for rank in self.ranks))

    def _step_producers(self, now: float, *, may_start: bool) -> None:
        for producer in self.producers:
            if may_start or producer.process is not None:
                producer.step(now, may_restart=may_start)

    def _look_at_ranks(self) -> None:
        for rank in self.ranks:
            if rank.look() and rank.has_terminal:
                self._logs.tell_here()

    def _is_ending(self) -> bool:
        statuses = [rank.status for rank in self.ranks]
        return bool(self._signal) or any(statuses) or None not in statuses or self._is_fleet_lost()

    def _is_fleet_lost(self) -> bool:
        """Whether no image can come any more: all producers have failed for good, and others cannot reach the ranks."""
        statuses = [producer.status for producer in self.producers]
        if not statuses or not all(statuses):  # none of them runs, or has heard that the run is over
            return False
        if _is_of_this_machine(self.endpoint):
            return True
        if not self._is_bereft:
            self._is_bereft = True
            _log.warning("no producer is left on this machine; the run goes on with those of others, if there are any")
        return False

    # --- the end ------------------------------------------------------------------------------------------------------

    def _tell_why(self) -> int:
        """Say why the run ends, unless it is done. Returns the exit status."""
        if self._signal:
            _log.info("ending all processes; a second signal kills them")
            return 128 + self._signal
        failed = [rank for rank in self.ranks if rank.status]
        if failed:
            self._tell_failure(failed[0])
            return failed[0].status or 0
        if all(rank.status == 0 for rank in self.ranks):
            return 0
        last = self.producers[-1]
        _log.error("every producer has ended for good; %s: %s", self._logs.path(last.name), last.last_line)
        return worst([producer.status or 0 for producer in self.producers])

    def _tell_failure(self, rank: Rank) -> None:
        path, status = self._logs.path(rank.name), rank.status or 0
        if rank.has_terminal and status <= EXIT_DEFECT:  # it has just said so itself
            _log.error("%s has ended with status %d; its log: %s", rank.name, status, path)
            return
        if status < EXIT_DEFECT or status in ASKED:  # a line said why, or nothing did
            _log.error("%s has ended with status %d: %s", rank.name, status, rank.last_line)
            return
        lines = self._logs.last_lines(rank.name, _LAST_LINES)
        _log.error("%s has crashed (status %d); the last lines of %s:", rank.name, status, path)
        for line in lines:
            _log.error("    %s", line)

    def _end_ranks(self) -> None:
        for rank in self.ranks:
            rank.ask_to_end()
        deadline = time.monotonic() + _END_S
        while any(rank.status is None for rank in self.ranks) and time.monotonic() < deadline:
            time.sleep(_TICK_S)
            self._look_at_ranks()
        for rank in self.ranks:
            if rank.process is not None:
                _log.warning("%s has not ended within %g s; it is killed", rank.name, _END_S)
                rank.kill()
                rank.process.wait()
        self._look_at_ranks()

    def _end_producers(self, within_s: float) -> None:
        """End them: they may do so themselves for a while, as they do when they hear that the run is over."""
        deadline = time.monotonic() + within_s
        while any(producer.process for producer in self.producers) and time.monotonic() < deadline:
            self._step_producers(time.monotonic(), may_start=False)
            time.sleep(_TICK_S)
        children.end([producer.process for producer in self.producers if producer.process is not None], _CLOSE_S)

    def _kill(self) -> None:
        """Leave nothing."""
        for child in [*self.ranks, *self.producers]:
            child.kill()
        for child in [*self.ranks, *self.producers]:
            if child.process is not None:
                child.process.wait()
            child.clear_up()


def _incarnation(run_dir: Path) -> int | None:
    """Of the life that has begun last in this folder; None where none has."""
    try:
        return run_folder.read(run_dir).incarnation
    except RunError:
        return None


def _is_of_this_machine(endpoint: str) -> bool:
    """Whether producers of other machines cannot come."""
    return endpoint.startswith("ipc://") or parse_address(endpoint.removeprefix("tcp://"), "endpoint").is_loopback
