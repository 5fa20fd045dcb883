"""Producers on this machine that a run starts itself, so that one command does everything.

They are ordinary `penstock produce` processes. Each ends when its standard input closes, so none outlives the run,
however the run ends.
"""

import logging
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from penstock.config import children
from penstock.config.address import Address
from penstock.consumer.config import FleetConfig
from penstock.consumer.making_config import RealConfig
from penstock.consumer.run_folder import RunFolder
from penstock.protocol.tickets import Kind

_log = logging.getLogger(__name__)

_END_S = 3.0
"""How long the producers may take to end before they are killed."""


@dataclass(frozen=True, slots=True)
class _Local:
    """One producer that the run has started."""

    name: str
    kind: Kind
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def last_line(self) -> str:
        """Its last words."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "(it wrote nothing)"


class LocalFleet:
    """Starts the producers that `config` asks for, which connect to `endpoint`; ends them on exit.

    Args:
        config: how many.
        endpoint: of a rank of the run.
        folder: takes their logs.
        real: the set that producers of real images serve.
        metrics: where they serve their metrics, one after another; none where there are too few.
        key: their key file; empty where the links have no keys.
        access: arguments that say who may read their metrics.
    """

    def __init__(
        self,
        config: FleetConfig,
        endpoint: str,
        folder: RunFolder,
        real: RealConfig | None = None,
        metrics: Sequence[Address] = (),
        key: str = "",
        access: Sequence[str] = (),
    ) -> None:
        self._key = key
        self._access = access
        self._locals: list[_Local] = []
        self._metrics = iter(metrics)
        self._lost: set[str] = set()
        generating = ["--config", config.local_producer_config]
        generating += ["--scorer", config.local_scorer] if config.local_scorer else []
        for number in range(config.local_producers):
            self._add(f"local-{number}", Kind.GENERATED, folder.producer_log(number), endpoint, generating)
        serving = real_arguments(real) if real else []
        for number in range(config.local_image_producers):
            self._add(f"local-images-{number}", Kind.REAL, folder.image_producer_log(number), endpoint, serving)

    def _add(self, name: str, kind: Kind, log: Path, endpoint: str, arguments: Sequence[str]) -> None:
        command = [sys.executable, "-m", "penstock.producer", *arguments, "--connect", endpoint, "--name", name]
        command += ["--key", self._key] if self._key else []
        if (address := next(self._metrics, None)) is not None:
            command += ["--metrics", str(address), *self._access]
            place = f"at {address.url}/metrics" if address.port else f"at a free port, which {log} names"
            _log.info("%s serves its metrics %s", name, place)
        with log.open("wb") as output:
            self._locals.append(_Local(name, kind, log, self._start(command, output)))

    @staticmethod
    def _start(command: list[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
        return children.start(command, output=output)

    def check(self, kind: Kind = Kind.GENERATED) -> str | None:
        """Log which producers have ended since the last call; why none of a kind will come, if all of it have."""
        for local in self._locals:
            if local.process.poll() is not None and local.name not in self._lost:
                self._lost.add(local.name)
                status = local.process.returncode
                _log.warning("producer %s ended with status %d: %s", local.name, status, local.last_line)
        mine = [local for local in self._locals if local.kind is kind]
        if not mine or any(local.name not in self._lost for local in mine):
            return None
        which = "local producer of real images" if kind is Kind.REAL else "local producer"
        return f"every {which} has ended; the last line of {mine[-1].log}: {mine[-1].last_line}"

    @property
    def names(self) -> frozenset[str]:
        """Of all of them."""
        return frozenset(local.name for local in self._locals)

    @property
    def lost(self) -> tuple[str, ...]:
        """What is to be said of each that had ended at the last `check`."""
        gone = (local for local in self._locals if local.name in self._lost)
        return tuple(
            f"producer {local.name} has ended; the last line of {local.log}: {local.last_line}" for local in gone
        )

    def close(self) -> None:
        """End all of them: ask by closing their input, then kill what is left."""
        children.end([local.process for local in self._locals], _END_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def real_arguments(real: RealConfig) -> list[str]:
    """The arguments of `penstock produce` that serve a set of real images."""
    return ["--images", real.source, *(["--images-split", real.split] if real.split else [])]
