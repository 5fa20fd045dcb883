"""The plan of producers on a Ray cluster: the fleet's, and what each asks the cluster for."""

from dataclasses import dataclass, field
from math import inf
from typing import Annotated

from penstock.config.flags import short_name
from penstock.config.rules import require
from penstock.deploy.fleet_plan import ProducerPlan, split_words
from penstock.producer.config import ProduceConfig
from penstock.protocol.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class RayConfig:
    """What is Ray's business."""

    address: Annotated[str, short_name("--address")] = ""
    """Of a cluster, `auto` for the one that this machine belongs to. Empty for the one that RAY_ADDRESS names, and for
    a new one on this machine, which ends with the command, where it names none."""
    gpus: Annotated[float, short_name("--gpus")] = 0.0
    """GPUs of each producer; Ray says by CUDA_VISIBLE_DEVICES which."""
    cpus: Annotated[float, short_name("--cpus")] = 1.0
    """Cores of each producer: Ray places by them, and gives it as many threads."""
    resource: Annotated[str, short_name("--resource")] = ""
    """NAME of a resource of which each producer takes one: it keeps them to nodes that have it, such as spot ones."""
    spread: Annotated[bool, short_name("--spread")] = True
    """Spread the producers over the nodes, so that one lost node costs few of them; else fill one node first."""
    max_restarts: Annotated[int, short_name("--max-restarts")] = -1
    """How often an actor that was lost is started again; -1 for ever."""

    def __post_init__(self) -> None:
        require(0 <= self.gpus < inf, "gpus must be >= 0", self.gpus)
        require(0 <= self.cpus < inf, "cpus must be >= 0", self.cpus)
        require(self.max_restarts >= -1, "max_restarts must be >= -1", self.max_restarts)


@dataclass(frozen=True, slots=True, kw_only=True)
class RayPlan(ProducerPlan):
    """Producers on Ray, of a run whose trainers run already. Files that they are given must be on every node."""

    connect: str = ""
    """Address of any rank, as nodes of the cluster dial it; as in `penstock produce`."""
    key: str = ""
    """Key file of the producers, as in `penstock produce`; empty for links without keys."""
    ray: RayConfig = field(default_factory=RayConfig)

    def __post_init__(self) -> None:
        ProducerPlan.__post_init__(self)
        require(self.producers >= 1, "producers must be >= 1", self.producers)

    @property
    def produce_arguments(self) -> list[str]:
        """Of each producer, but for its name. Raises ConfigError."""
        own = ["--connect", self.connect, *(["--key", self.key] if self.key else [])]
        return [*split_words(self.produce, "produce"), *own]

    def produce_config(self) -> ProduceConfig:
        """What each producer will read. Raises ConfigError."""
        if not self.connect:
            raise ConfigError("penstock ray needs --connect: the address of a rank, as the cluster's nodes dial it")
        config = ProducerPlan.produce_config(self)
        if config.devices:
            raise ConfigError("produce must not name --devices: each actor is one producer, on the GPUs that Ray gives")
        return config
