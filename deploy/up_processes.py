"""What `penstock up` starts: the command and the environment of each rank and of each producer."""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.consumer import cpu_ranks
from penstock.consumer.config import TrainConfig
from penstock.deploy.fleet_plan import check_sides
from penstock.deploy.up_config import UpConfig
from penstock.deploy.up_devices import CPU, OWN, Division, divide
from penstock.producer.config import ProduceConfig
from penstock.producer.device_fleet import commands
from penstock.protocol.errors import ConfigError
from penstock.protocol.keys import TRAINER_KEY
from penstock.telemetry.machine import usable_cores

VISIBLE = "CUDA_VISIBLE_DEVICES"
THREADS = "OMP_NUM_THREADS"


@dataclass(frozen=True, slots=True)
class Process:
    """One that is to be started."""

    name: str
    place: str
    """Where it works, for people: `GPU 3`, `cpu`."""
    command: Sequence[str]
    env: Mapping[str, str]
    """What its environment has beside this process's."""

    @property
    def in_a_shell(self) -> str:
        """As one would type it."""
        variables = [f"{name}={shlex.quote(value)}" for name, value in self.env.items()]
        return " ".join([*variables, shlex.join(self.command)])


class Processes:
    """Those of one run.

    Args:
        config: what is asked for.
        environ: the environment.

    Raises:
        ConfigError: the settings of the ranks or of the producers, or the devices, cannot be.
    """

    def __init__(self, config: UpConfig, environ: Mapping[str, str] = os.environ) -> None:
        self._train_arguments = config.train_arguments
        self._produce_arguments = config.produce_arguments
        self.train: TrainConfig = config.train_config()
        """What the ranks will read."""
        self.produce: ProduceConfig = config.produce_config()
        """What the producers will read, but for where they connect to."""
        _check_links(self.produce, self._produce_arguments)
        self.devices: Division = divide(config, self.produce, environ)
        """One for each process."""
        check_sides(self.train, self.produce, len(self.devices.ranks))
        self.rank_threads, self.producer_threads = self._threads(environ)
        self.producers("")  # there may be no port for the metrics of the last

    def ranks(self, more: Sequence[str] = ()) -> list[Process]:
        """The ranks; `more` are further arguments of theirs."""
        devices = self.devices.ranks
        port = cpu_ranks.free_port() if len(devices) > 1 else 0
        words = [sys.executable, "-m", "penstock.consumer", *self._train_arguments, *more]
        on_cpu = devices[0] == CPU
        shared = {VISIBLE: self.devices.visible(devices)}
        shared |= {"ACCELERATE_USE_CPU": "1"} if on_cpu else {}
        shared |= {THREADS: str(self.rank_threads)} if self.rank_threads else {}
        return [
            Process(
                f"rank-{rank}",
                _place(device),
                words,
                shared | (cpu_ranks.environment(rank, len(devices), port) if len(devices) > 1 else {}),
            )
            for rank, device in enumerate(devices)
        ]

    def producers(self, endpoint: str) -> list[Process]:
        """The producers, which connect to `endpoint`."""
        shared = ["--connect", endpoint]
        if self.train.stream.keys:
            shared += ["--key", str(Path(self.train.stream.keys).expanduser() / TRAINER_KEY)]
        devices = self.devices.producers
        seen = [device if device in (CPU, OWN) else "cuda" for device in devices]  # each sees its own alone
        started = commands([*self._produce_arguments, *shared], self.produce, seen, "producer")
        return [
            Process(name, self._producer_place(device), words, self._producer_env(device))
            for device, (name, words) in zip(devices, started.items(), strict=True)
        ]

    def _producer_place(self, device: str) -> str:
        names_gpu = device == OWN and self.produce.device.startswith("cuda")
        return self.produce.device if names_gpu else _place(device or CPU)

    def _producer_env(self, device: str) -> dict[str, str]:
        env = {THREADS: str(self.producer_threads)} if self.producer_threads else {}
        if device == OWN and self.produce.device.startswith("cuda"):
            return env  # it chooses among all
        return env | {VISIBLE: self.devices.visible([device])}

    def _threads(self, environ: Mapping[str, str]) -> tuple[int, int]:
        """Of each rank and of each producer; 0 where the user has decided.

        Processes with more threads than cores between them run many times slower.
        """
        if THREADS in environ:
            return 0, 0
        ranks, producers, cores = len(self.devices.ranks), len(self.devices.producers), usable_cores()
        if self.produce.threads:
            return max(1, (cores - producers * self.produce.threads) // ranks), 0
        each = max(1, cores // (ranks + producers))
        return each, each


def _check_links(produce: ProduceConfig, arguments: Sequence[str]) -> None:
    """Raise ConfigError where producers are told what `penstock up` sees to."""
    given = {word.partition("=")[0] for word in arguments}
    if "--connect" in given:
        raise ConfigError("produce: leave --connect out; the producers dial the rank that `penstock up` starts")
    if "--key" in given:
        raise ConfigError(
            "produce: leave --key out; with `penstock up --keys DIR` the run's own producers use the trainer's key"
        )
    if produce.devices:
        raise ConfigError("produce: leave --devices out; `penstock up --producer-devices` says which GPUs are used")


def _place(device: str) -> str:
    return device if device == CPU else f"GPU {device.removeprefix('cuda:')}"
