"""Producers on this machine that a run starts itself, so that one command does everything.

They are ordinary `penstock produce` processes. Each ends when its standard input closes, so none outlives the run,
however the run ends.
"""

import logging
import subprocess
import sys
from pathlib import Path
from typing import IO, Self

from penstock.config import children
from penstock.consumer.config import FleetConfig
from penstock.consumer.run_folder import RunFolder

_log = logging.getLogger(__name__)

_END_S = 3.0
"""How long the producers may take to end before they are killed."""


class LocalFleet:
    """Starts `config.local_producers` producers that connect to `endpoint`; ends them on exit."""

    def __init__(self, config: FleetConfig, endpoint: str, folder: RunFolder) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        self._logs: list[Path] = []
        self._lost: set[int] = set()
        for number in range(config.local_producers):
            command = [sys.executable, "-m", "penstock.producer", "--config", config.local_producer_config]
            command += ["--connect", endpoint, "--name", f"local-{number}"]
            log = folder.producer_log(number)
            with log.open("wb") as output:
                self._processes.append(self._start(command, output))
            self._logs.append(log)

    @staticmethod
    def _start(command: list[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
        return children.start(command, output=output)

    def check(self) -> str | None:
        """Log which producers have ended since the last call; why none of them will come, if all have."""
        for number, process in enumerate(self._processes):
            if process.poll() is not None and number not in self._lost:
                self._lost.add(number)
                _log.warning(
                    "producer local-%d ended with status %d: %s", number, process.returncode, self._last(number)
                )
        if len(self._lost) < len(self._processes):
            return None
        return f"every local producer has ended; the last line of {self._logs[-1]}: {self._last(-1)}"

    def _last(self, number: int) -> str:
        lines = self._logs[number].read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "(it wrote nothing)"

    def close(self) -> None:
        """End all of them: ask by closing their input, then kill what is left."""
        children.end(self._processes, _END_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
