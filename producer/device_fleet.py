"""One producer a device, from one command: a parent that loads no torch and sees to its children.

Each device has a process of its own: one GPU's fault, leak or crash costs that GPU's producer a restart and the others
nothing, and no two share Python's lock. To the trainer they are producers like any others: `NAME-0`, `NAME-1`, ...
"""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence

from penstock.config import children
from penstock.config.address import Address, parse_address
from penstock.config.process import ending_gently
from penstock.producer.config import ProduceConfig, default_name
from penstock.producer.device_child import ASKED, ChildState, DeviceChild
from penstock.telemetry import nvml
from penstock.telemetry.machine import usable_cores

_log = logging.getLogger(__name__)

_TICK_S = 0.1
_HEALTH_S = 60.0
"""How often the log tells how the GPUs are."""
_MARGIN_S = 5.0
"""From the end of `drain_timeout_s` until what is left is killed: time to say goodbye and to let go of a device."""
_OVER_S = 10.0
"""From the end of one producer because the run is over until those that no rank talks to are ended too."""
_CLOSE_S = 2.0
"""How long what is left may take to end when this process must, before it is killed."""


class DeviceFleet:
    """The producers of this machine's devices.

    Args:
        config: their settings; each gets its own `device` and `name`.
        argv: the arguments that `config` was read from, which they get too.
        devices: one for each producer, as torch names them.
    """

    def __init__(self, config: ProduceConfig, argv: Sequence[str], devices: Sequence[str]) -> None:
        self._drain_s = config.drain_timeout_s
        env = {} if config.threads else share_of_cores(len(devices))
        started = commands(argv, config, devices, default_name())
        self._children = [
            DeviceChild(name, device, command, env)
            for device, (name, command) in zip(devices, started.items(), strict=True)
        ]
        self._is_asked = False
        self._asked_at: float | None = None
        self._over_at: float | None = None
        self._ended = threading.Event()

    def run(self) -> int:
        """Run the producers until all have ended for good. Returns the exit status.

        0 where the run is over; 143 or 130 where SIGTERM or Ctrl-C asked for the end and all went well; else the worst
        status of a producer. However this ends, none of them is left.
        """
        with ending_gently(self._ask) as asked, ending_gently(self._ask, signal.SIGINT) as interrupted:
            try:
                self._start_health()
                while any(child.status is None for child in self._children):
                    number = signal.SIGINT if interrupted() and not asked() else signal.SIGTERM
                    self._step(time.monotonic(), 128 + number)
                    time.sleep(_TICK_S)
            finally:
                self._close()
            own = [128 + signal.SIGTERM] if asked() else [128 + signal.SIGINT] if interrupted() else []
        return worst([*own, *(child.status or 0 for child in self._children)])

    def _ask(self) -> bool:
        """Begin an orderly end, once. For a signal handler."""
        if self._is_asked:
            return False
        self._is_asked = True
        return True

    def _step(self, now: float, asked_status: int) -> None:
        if self._is_asked and self._asked_at is None:
            self._asked_at = now
            for child in self._children:
                child.ask_to_end(asked_status)
        if self._asked_at is not None and now > self._asked_at + self._drain_s + _MARGIN_S:
            for child in self._children:
                child.kill()
        for child in self._children:
            child.step(now, may_restart=self._asked_at is None and self._over_at is None)
        if self._asked_at is None:
            self._end_with_the_run(now)

    def _end_with_the_run(self, now: float) -> None:
        """When one has heard that the run is over, the others hear it too, but for those that no rank talks to."""
        if self._over_at is None:
            if not any(child.status == 0 for child in self._children):
                return
            self._over_at = now
        is_late = now > self._over_at + _OVER_S
        for child in self._children:
            if child.state is ChildState.RESTARTING or (is_late and child.state is not ChildState.SERVING):
                child.ask_to_end(0)

    def _close(self) -> None:
        self._ended.set()
        children.end([child.process for child in self._children if child.process is not None], _CLOSE_S)
        for child in self._children:
            child.clear_up()

    # --- health -------------------------------------------------------------------------------------------------------

    def _start_health(self) -> None:
        gpus = [(child.name, child.device) for child in self._children if child.device.startswith("cuda:")]
        if gpus:
            # A thread of its own: a driver in trouble may take long to answer.
            threading.Thread(target=self._tell_health, args=[gpus], name="penstock-health", daemon=True).start()

    def _tell_health(self, gpus: Sequence[tuple[str, str]]) -> None:
        while not self._ended.wait(_HEALTH_S):
            tell_health(gpus)


def commands(argv: Sequence[str], config: ProduceConfig, devices: Sequence[str], name: str) -> dict[str, list[str]]:
    """What starts each of several producers, by its name: `NAME-0`, `NAME-1`, ..., metrics one port after another.

    Args:
        argv: the arguments that `config` was read from, which all of them get.
        config: their settings.
        devices: one for each, as torch names them; empty where `argv` says it.
        name: theirs, where `config` has none.

    Raises ConfigError where the ports of the metrics end before.
    """
    metrics = parse_address(config.metrics, "metrics") if config.metrics else None
    started = {}
    for number, device in enumerate(devices):
        own = f"{config.name or name}-{number}"
        started[own] = command(argv, device, own, metrics.shifted(number) if metrics else None)
    return started


def command(argv: Sequence[str], device: str, name: str, metrics: Address | None = None) -> list[str]:
    """What starts the producer of one device, empty where `argv` says it: a later flag overrides an earlier one."""
    own = ["--devices", "", *(["--device", device] if device else []), "--name", name]
    own += ["--metrics", str(metrics)] if metrics else []
    return [sys.executable, "-m", "penstock.producer", *argv, *own]


def share_of_cores(num_processes: int) -> dict[str, str]:
    """Threads for each of so many processes, as their environment says it; a user's own number stays.

    Processes with more threads than cores between them run many times slower.
    """
    if "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, usable_cores() // num_processes))}


def tell_health(gpus: Sequence[tuple[str, str]]) -> None:
    """Log a line for each GPU, given as the producer's name and `cuda:N`; what cannot be told is said once."""
    for name, device in gpus:
        health = nvml.read(int(device.removeprefix("cuda:")))
        if health is not None:
            _log.info("%s on %s: %s", name, device, health)


def worst(statuses: Sequence[int]) -> int:
    """The worst of several exit statuses: any failure before an end that was asked for, that before 0."""
    return max(statuses, key=lambda status: (status != 0, status not in ASKED, status))
