"""One device's producer through all its lives: a process that is started, watched, and started again when it crashes.

What a producer is about is read from its log, the only thing that it says to whoever started it: a few lines whose
beginning is fixed. A crash is what a new process may mend: a signal, a defect, a device that was lost. An error with a
line of its own, such as a model that does not load or a rank that refuses, would be the same again and ends it.
"""

import logging
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from penstock.config.logged_child import LoggedChild
from penstock.protocol.errors import ConfigError, PenstockError

_log = logging.getLogger(__name__)

WARMS_UP = "warms up: "
"""What a producer's log says when its engine is chosen and begins to load."""
_READY = "ready for rank "
"""As the protocol's machine notes it, with the rank's address at the end."""
_LOST = (" has been silent ", " has begun another life", " said goodbye: ", " refused: ")
"""As the protocol's machine notes the end of the talk with a rank, after its address."""

ASKED = (128 + 1, 128 + 2, 128 + 15)
"""Exit statuses of a process that was asked to end: SIGHUP, SIGINT, SIGTERM."""
FOR_GOOD = (0, PenstockError.exit_code, ConfigError.exit_code, *ASKED)
"""Exit statuses that a restart does not mend."""

_NOT_STARTED = 126
"""As a shell says that a program cannot be started."""


class ChildState(StrEnum):
    """What a device's producer is about."""

    STARTING = "starting"
    WARMING = "warming up"
    """Its model loads, or no rank has answered yet."""
    SERVING = "serving"
    """At least one rank gives it tickets."""
    WAITING = "waiting for a trainer"
    """No rank is left of those that it served."""
    DRAINING = "draining"
    """Asked to end."""
    RESTARTING = "restarting"
    """Its process has crashed; the next one starts in a while."""
    ENDED = "ended"


@dataclass(slots=True)
class Backoff:
    """Seconds until the next start: doubled with every crash, begun anew after a life that was worth it."""

    first_s: float = 1.0
    most_s: float = 60.0
    worth_s: float = 60.0
    """Seconds of service after which the crashes before it are forgotten."""
    next_s: float = field(default=0.0, init=False)

    def after(self, served_s: float) -> float:
        """How long to wait after a life that has served so long."""
        wait_s = self.first_s if served_s >= self.worth_s else self.next_s or self.first_s
        self.next_s = min(2 * wait_s, self.most_s)
        return wait_s


class DeviceChild(LoggedChild):
    """The producer of one device. For one thread; another, of its own, reads the log.

    Args:
        name: the producer's, which its log and the ranks know it by.
        device: as people call it.
        command: what starts it.
        env: what its environment has beside this process's.
        pass_on: gets every line of its log; see `LoggedChild`.
    """

    def __init__(
        self,
        name: str,
        device: str,
        command: Sequence[str],
        env: Mapping[str, str],
        pass_on: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(name, command, env, pass_on)
        self.device = device
        self.state: ChildState | None = None
        """None before the first start."""
        self.status: int | None = None
        """The exit status, once it has ended for good."""
        self.num_crashes = 0
        """Lives that another one was to follow."""
        self._backoff = Backoff()
        self._start_at = 0.0
        self._asked_status: int | None = None
        self._lock = threading.Lock()
        """Guards the state; what is below is the reader's."""
        self._ranks: set[str] = set()
        self._served_from: float | None = None

    def step(self, now: float, *, may_restart: bool) -> None:
        """Start the process if it is time to, and see whether it has ended. `now` is monotonic."""
        if self.process is None:
            if self.status is None and now >= self._start_at:
                self._begin(now)
            return
        status = self.poll()
        if status is not None:
            self.clear_up()
            self._settle(status, now, may_restart=may_restart)

    def ask_to_end(self, status: int) -> None:
        """Ask it, once, to finish what it has begun and to end for good; `status` is what that counts as."""
        if self.status is not None or self._asked_status is not None:
            return
        self._asked_status = status
        if self.process is None:
            self._finish(status)
            return
        self._become(ChildState.DRAINING)
        self.process.terminate()

    def _begin(self, now: float) -> None:
        self._become(ChildState.STARTING)
        self._ranks, self._served_from = set(), None
        try:
            self.start()
        except OSError as error:
            self.last_line = f"it cannot be started: {error}"
            self._settle(_NOT_STARTED, now, may_restart=True)

    def _settle(self, status: int, now: float, *, may_restart: bool) -> None:
        """Decide whether and when there is another life."""
        if self._asked_status is not None and status in ASKED:
            status = self._asked_status
        if status in FOR_GOOD or self._asked_status is not None or not may_restart:
            self._finish(status)
            return
        self.num_crashes += 1
        wait_s = self._backoff.after(0.0 if self._served_from is None else now - self._served_from)
        self._start_at = now + wait_s
        words = f"is restarting in {wait_s:g} s; it ended with status {_explained(status)}: {self.last_line}"
        self._become(ChildState.RESTARTING, words, logging.WARNING)

    def _finish(self, status: int) -> None:
        self.status = status
        is_well = status in (0, self._asked_status)
        why = "" if is_well else f": {self.last_line}"
        words = f"has ended for good with status {status}{why}"
        self._become(ChildState.ENDED, words, logging.INFO if is_well else logging.WARNING)

    # --- its log ------------------------------------------------------------------------------------------------------

    def hear(self, line: str) -> None:
        """Learn from a line of the log what the producer is about."""
        message = line.partition(f" producer {self.name} ")[2].partition(": ")[2]
        if message.startswith(_READY):
            self._ranks.add(message.rpartition(" ")[2])
            self._served_from = self._served_from or time.monotonic()
        self._ranks -= {rank for rank in self._ranks if message.startswith(tuple(rank + end for end in _LOST))}
        if self._ranks:
            self._become(ChildState.SERVING)
        elif self._served_from is not None:
            self._become(ChildState.WAITING)
        elif message.startswith(WARMS_UP):
            self._become(ChildState.WARMING)

    def _become(self, state: ChildState, words: str = "", level: int = logging.INFO) -> None:
        with self._lock:
            if state is self.state or (self.state is ChildState.DRAINING and state is not ChildState.ENDED):
                return
            self.state = state
        _log.log(level, "%s on %s %s", self.name, self.device, words or f"is {state.value}")


def _explained(status: int) -> str:
    """A status; that of a signal with its name, for then the last line of the log is not the reason."""
    by_signal = {128 + each.value: each.name for each in signal.Signals}
    return f"{status} ({by_signal[status]}), after its log said" if status in by_signal else str(status)
