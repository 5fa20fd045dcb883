"""Which processes get which GPUs: what the user has listed, else the ranks the last ones and the producers the rest."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from penstock.deploy.up_config import UpConfig
from penstock.producer.config import ProduceConfig
from penstock.producer.device_list import find_devices
from penstock.protocol.errors import ConfigError
from penstock.telemetry import machine

CPU = "cpu"
OWN = ""
"""A producer's device where its own settings name it."""


@dataclass(frozen=True, slots=True)
class Division:
    """A device for every process: `cuda:N` as CUDA numbers them here, `cpu`, or `OWN`."""

    ranks: Sequence[str]
    producers: Sequence[str]
    gpus: Sequence[str] = ()
    """For `cuda:0`, `cuda:1`, ...: what `CUDA_VISIBLE_DEVICES` calls each, as far as the machine says."""

    def visible(self, devices: Sequence[str]) -> str:
        """`CUDA_VISIBLE_DEVICES` of a process that may use these; empty for none."""
        numbers = [int(device.removeprefix("cuda:")) for device in devices if device.startswith("cuda:")]
        return ",".join(self.gpus[number] if number < len(self.gpus) else str(number) for number in numbers)


def divide(config: UpConfig, produce: ProduceConfig, environ: Mapping[str, str] = os.environ) -> Division:
    """Give every process its device.

    Raises:
        ConfigError: a list is none, names what is not there, or shares a GPU without leave; ranks of both kinds; or
            there are fewer GPUs than processes that want one.
    """
    gpus = machine.visible_gpus(len(machine.nvidia_gpus()) or None, environ)
    free = [f"cuda:{number}" for number in range(len(gpus))]
    ranks = _listed(config.trainer_devices, "trainer_devices", environ)
    producers = _listed(config.producer_devices, "producer_devices", environ)
    if len({device == CPU for device in ranks}) > 1:
        raise ConfigError(f"trainer_devices must be GPUs or cpu, not both, got {config.trainer_devices!r}")
    wants = _wants_gpu(produce) if not producers else False
    if not ranks:
        left = [gpu for gpu in free if gpu not in producers]
        ranks = _last(left, config, num_producers=config.producers if wants else 0) if free else [CPU] * config.ranks
    if not producers:
        left = [gpu for gpu in free if gpu not in ranks]
        producers = _first(left, config) if wants and free else [OWN] * config.producers
    shared = sorted({*ranks} & {*producers} - {CPU})
    if shared and not config.share_gpus:
        raise ConfigError(
            f"{shared[0]} is in trainer_devices and in producer_devices; name others, or let them share it "
            "(--share-gpus)"
        )
    return Division(ranks, producers, gpus)


def _listed(text: str, name: str, environ: Mapping[str, str]) -> list[str]:
    return find_devices(text, environ, name) if text else []


def _wants_gpu(produce: ProduceConfig) -> bool:
    """Whether a producer would take whichever GPU it finds."""
    return produce.device in ("auto", "cuda") and not produce.images and produce.backend != "paced"


def _last(left: Sequence[str], config: UpConfig, num_producers: int) -> list[str]:
    if len(left) < config.ranks + num_producers:
        wanted = f"{config.ranks} ranks" + (f" and {num_producers} producers" if num_producers else "")
        raise ConfigError(
            f"{wanted} want a GPU each, and {len(left)} are free; say what goes where (--trainer-devices, "
            "--producer-devices; cpu is a device, and --share-gpus allows a GPU in both)"
        )
    return list(left[len(left) - config.ranks :])


def _first(left: Sequence[str], config: UpConfig) -> list[str]:
    if len(left) < config.producers:
        raise ConfigError(
            f"{config.producers} producers want a GPU each, and {len(left)} are free; say what goes where "
            "(--producer-devices; cpu is a device, and --share-gpus allows one that a rank has)"
        )
    return list(left[: config.producers])
