"""`penstock ray`: the producers of a run as actors of a Ray cluster. The trainer stays where it is.

Ray is the scheduler here and nothing more: it places the producers, starts those anew that it has lost, and brings
their logs together. Tickets and images travel as ever, over Penstock's own links; the object store holds none of them.
"""

import logging
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.config.load import load_config
from penstock.config.process import configure_logging, ending_gently
from penstock.config.rules import require
from penstock.protocol.errors import ConfigError, RunError

if TYPE_CHECKING:
    from penstock.producer.config import ProduceConfig

_log = logging.getLogger("penstock.ray")

HELP = "Start the producers of a run as actors of a Ray cluster, which starts those again that it loses."
_NO_PRESETS = Path(__file__).parent / "ray_presets"
_POLL_S = 1.0
_GRACE_S = 5.0
"""How much longer than its own time a draining producer may take."""
TERMINATED = 143


@dataclass(frozen=True, slots=True, kw_only=True)
class RayConfig:
    """Producers on Ray."""

    connect: str = ""
    """Address of any rank, as nodes of the cluster dial it; as in `penstock produce`."""
    produce: str = "--config demo"
    """Further arguments of `penstock produce`, as in a shell. Files that they name must be on every node."""
    producers: int = 1
    """Actors, one producer each."""
    address: str = ""
    """Of a cluster, `auto` for the one that this machine belongs to. Empty for the one that RAY_ADDRESS names, and for
    a new one on this machine, which ends with the command, where it names none."""
    gpus: float = 0.0
    """GPUs of each producer; Ray says by CUDA_VISIBLE_DEVICES which."""
    cpus: float = 1.0
    """Cores of each producer: Ray places by them, and gives it as many threads."""
    resource: str = ""
    """NAME of a resource of which each producer takes one: it keeps them to nodes that have it, such as spot ones."""
    spread: bool = True
    """Spread the producers over the nodes, so that one lost node costs few of them; else fill one node first."""
    max_restarts: int = -1
    """How often an actor that was lost is started again; -1 for ever."""

    def __post_init__(self) -> None:
        require(bool(self.connect), "connect must be the address of a rank", self.connect)
        require(self.producers >= 1, "producers must be >= 1", self.producers)
        require(0 <= self.gpus < inf, "gpus must be >= 0", self.gpus)
        require(0 <= self.cpus < inf, "cpus must be >= 0", self.cpus)
        require(self.max_restarts >= -1, "max_restarts must be >= -1", self.max_restarts)

    @property
    def arguments(self) -> list[str]:
        """Of each producer, but for its name. Raises ConfigError."""
        try:
            return [*shlex.split(self.produce), f"--connect={self.connect}"]
        except ValueError as error:
            raise ConfigError(f"produce is not what a shell would read: {error}: {self.produce}") from error

    def produce_config(self) -> "ProduceConfig":
        """What each producer will read. Raises ConfigError."""
        from penstock.producer.__main__ import PRESETS
        from penstock.producer.config import ProduceConfig

        config = load_config(ProduceConfig, self.arguments, preset_dir=PRESETS, prog="penstock produce", description="")
        if config.devices:
            raise ConfigError("produce must not name --devices: each actor is one producer, on the GPUs that Ray gives")
        return config


class RayFleet:
    """The actors of one run.

    Args:
        config: how many, and of what.
    """

    def __init__(self, config: RayConfig) -> None:
        import ray

        from penstock.deploy.ray_actor import ProducerActor

        self._ray = ray
        produce = config.produce_config()
        self._drain_timeout_s = produce.drain_timeout_s
        self._drain_since: float | None = None
        threads = max(1, int(config.cpus))
        actor = ray.remote(ProducerActor).options(
            num_gpus=config.gpus,
            num_cpus=config.cpus,
            resources={config.resource: 1} if config.resource else None,
            scheduling_strategy="SPREAD" if config.spread else "DEFAULT",
            max_restarts=config.max_restarts,
            max_task_retries=config.max_restarts,
            max_concurrency=2,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(threads)}},
        )
        base = produce.name or "ray"
        names = [f"{base}-{number}" for number in range(config.producers)]
        self._actors = [actor.remote(name, config.arguments) for name in names]
        self._serving: dict[Any, str] = {
            handle.serve.remote(): name for handle, name in zip(self._actors, names, strict=True)
        }

    def drain(self) -> bool:
        """Ask all producers to drain; for a signal handler, so the asking is `wait`'s. Returns True."""
        self._drain_since = time.monotonic()
        return True

    def wait(self) -> list[int]:
        """Wait for the end of all producers, and say it of each; their exit statuses.

        Raises RunError where Ray can keep none of them alive.
        """
        statuses: list[int] = []
        errors: list[str] = []
        asked = False
        while self._serving and not self._is_late():
            if self._drain_since is not None and not asked:
                asked = True
                _log.info("asks %d producers to drain", len(self._serving))
                for handle in self._actors:
                    handle.drain.remote()
            done, _ = self._ray.wait(list(self._serving), timeout=_POLL_S)
            for task in done:
                name = self._serving.pop(task)
                try:
                    statuses.append(int(self._ray.get(task)))
                    _log.info("%s ended with status %d", name, statuses[-1])
                except self._ray.exceptions.RayError as error:
                    errors.append(f"{name}: {str(error).strip().splitlines()[0]}")
                    _log.warning("lost %s for good: %s", name, errors[-1])
        if errors and not statuses:
            raise RunError(f"Ray has lost all producers; the last, {errors[-1]}")
        return statuses

    def _is_late(self) -> bool:
        if self._drain_since is None:
            return False
        return time.monotonic() - self._drain_since > self._drain_timeout_s + _GRACE_S

    def close(self) -> None:
        """End what is left; a process never outlives its actor."""
        for handle in self._actors:
            self._ray.kill(handle, no_restart=True)


@contextmanager
def cluster(address: str) -> Iterator[None]:
    """Join a cluster, or start one on this machine that ends with the context. Raises ConfigError."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError("penstock ray needs Ray: pip install 'penstock[ray]'") from error
    try:
        ray.init(address=address or None, log_to_driver=True, logging_level=logging.WARNING)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(f"cannot join the Ray cluster at {address!r}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def main(argv: Sequence[str]) -> int:
    """Start the producers and see them to their end. Returns the exit status: 0 where the run is over."""
    config = load_config(RayConfig, argv, preset_dir=_NO_PRESETS, prog="penstock ray", description=HELP)
    configure_logging("ray")
    config.produce_config()  # what is wrong is said before a cluster is started
    with cluster(config.address):
        fleet = RayFleet(config)
        try:
            with ending_gently(fleet.drain) as asked:
                statuses = fleet.wait()
        finally:
            fleet.close()
    return TERMINATED if asked() else max(statuses, default=1)
