"""`penstock ray`: the producers of a run as actors of a Ray cluster. The trainer stays where it is.

Ray is the scheduler here and nothing more: it places the producers, starts those anew that it has lost, and brings
their logs together. Tickets and images travel as ever, over Penstock's own links; the object store holds none of them.
"""

import logging
import shlex
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from penstock.config.process import configure_logging, ending_gently
from penstock.deploy.plan_file import load_plan
from penstock.deploy.ray_actor import TERMINATED, ProducerActor
from penstock.deploy.ray_plan import RayPlan
from penstock.producer import device_fleet
from penstock.protocol.errors import ConfigError, RunError

_log = logging.getLogger("penstock.ray")

DESCRIPTION = (
    "Start the producers of a run as actors of a Ray cluster, which starts those again that it loses. The trainers run "
    "already; --connect says where. CONFIG is a plan, a YAML file or a preset, as `penstock up` takes it.\n\n"
    "penstock ray PLAN.yaml --connect tcp://TRAINER:5599 --key producer.key --address auto --gpus 1"
)
_POLL_S = 1.0
_GRACE_S = 5.0
"""How much longer than its own time a draining producer may take."""


def commands(plan: RayPlan) -> dict[str, list[str]]:
    """What starts each producer, by its name. Raises ConfigError."""
    # Several may come to lie on one machine.
    return device_fleet.commands(plan.produce_arguments, plan.produce_config(), [""] * plan.producers, "ray")


class RayFleet:
    """The actors of one run.

    Args:
        plan: how many, and of what.
    """

    def __init__(self, plan: RayPlan) -> None:
        import ray

        self._ray = ray
        self._drain_timeout_s = plan.produce_config().drain_timeout_s
        self._drain_since: float | None = None
        config = plan.ray
        _warn_of_too_few(ray.cluster_resources(), plan)
        actor = ray.remote(ProducerActor).options(
            num_gpus=config.gpus,
            num_cpus=config.cpus,
            resources={config.resource: 1} if config.resource else None,
            scheduling_strategy="SPREAD" if config.spread else "DEFAULT",
            max_restarts=config.max_restarts,
            max_task_retries=config.max_restarts,
            max_concurrency=2,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(max(1, int(config.cpus)))}},
        )
        made = {name: actor.remote(name, words) for name, words in commands(plan).items()}
        self._actors = list(made.values())
        self._serving: dict[Any, str] = {handle.serve.remote(): name for name, handle in made.items()}

    def drain(self) -> bool:
        """Ask all producers to drain, once; for a signal handler, so the asking is `wait`'s."""
        if self._drain_since is not None:
            return False
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


def _warn_of_too_few(has: dict[str, float], plan: RayPlan) -> None:
    """Say what Ray does not: producers that find no room wait for it without a word."""
    wanted = {"GPU": plan.ray.gpus, "CPU": plan.ray.cpus, plan.ray.resource: 1.0}
    for name, each in wanted.items():
        if name and plan.producers * each > has.get(name, 0.0):
            _log.warning(
                "%d producers want %g %s each, and the cluster has %g; those without wait until it grows",
                plan.producers,
                each,
                name,
                has.get(name, 0.0),
            )


def main(argv: Sequence[str]) -> int:
    """Start the producers and see them to their end. Returns the exit status: 0 where the run is over."""
    plan = load_plan(RayPlan, argv, prog="penstock ray", description=DESCRIPTION)
    made = commands(plan)  # what is wrong is said before a cluster is started
    if plan.dry_run:
        for name, words in made.items():
            print(f"# {name}\n{shlex.join(words)}")
        return 0
    configure_logging("ray")
    with cluster(plan.ray.address):
        fleet = RayFleet(plan)
        try:
            with ending_gently(fleet.drain) as asked, ending_gently(fleet.drain, signal.SIGINT) as interrupted:
                statuses = fleet.wait()
        finally:
            fleet.close()
    own = [TERMINATED] if asked() else [128 + signal.SIGINT] if interrupted() else []
    return device_fleet.worst([*own, *statuses])
