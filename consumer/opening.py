"""What a rank opens before torch is loaded: prompts, address, run folder, and the producers that it starts itself.

Loading torch takes seconds, here and in every producer; what can fail at once fails before, and the producers load
theirs meanwhile.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.config.address import Address, parse_address
from penstock.consumer import run_folder
from penstock.consumer.config import TrainConfig
from penstock.consumer.local_fleet import LocalFleet
from penstock.consumer.prompts.asking.answers import AskedPrompt
from penstock.consumer.prompts.asking.ask import ask
from penstock.consumer.prompts.asking.asked_file import write_asked
from penstock.consumer.prompts.balance.row_weights import read_targets
from penstock.consumer.prompts.mixed import MixedPrompts
from penstock.consumer.prompts.opening import check_concepts, check_gaps, open_source
from penstock.consumer.prompts.source import PromptSource
from penstock.consumer.real_images import RealImages, open_real_images
from penstock.consumer.tracking_config import check_installed
from penstock.consumer.vit_sizes import check_name
from penstock.consumer.watching.event_log import EventLog
from penstock.protocol.addresses import next_advertised, next_endpoint
from penstock.protocol.errors import ConfigError, RunError
from penstock.protocol.keys import TRAINER_KEY, read_trainer_keys
from penstock.protocol.sockets import RankSocket

if TYPE_CHECKING:
    from penstock.telemetry.dashboard.server import Dashboard
    from penstock.telemetry.metrics_server import MetricsServer

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Opening:
    """What `open_run` has opened."""

    prompts: PromptSource | None
    """Of all groups, generated and real; None where rank 0 asks for them, until it has prepared the run folder:
    `open_prompts` then opens them."""
    real: RealImages | None
    """The set of real images; None where the run uses none."""
    socket: RankSocket
    """Bound; producers that dial it wait until the stream starts."""
    fleet: LocalFleet | None
    """The producers that this rank started."""
    metrics: "MetricsServer | None"
    """Listening; None where nobody asked for metrics."""
    events: EventLog
    """What the rank has logged since it was started."""
    dashboard: "Dashboard | None" = None
    """The live page of rank 0, which waits for what it is to show; None where nobody asked for it."""


def open_run(config: TrainConfig, rank: int, world_size: int, stack: ExitStack) -> Opening:
    """Open what needs no torch, `stack` closes it; rank 0 also prepares the run folder and starts local producers.

    Raises:
        ConfigError: a package is missing, the prompts or the set of real images cannot be read, or have no concepts
            where they are learnt, the batch cannot be divided among the ranks, or no trace can be written.
        KeyFileError: the keys cannot be used.
        EndpointError: the address, or that of the metrics or the live page, is taken or not allowed, or whoever is
            asked for prompts is down or refuses.
        RunError: the run folder is taken, or there is nothing to resume.
    """
    events = stack.enter_context(EventLog())
    if config.groups_per_step % world_size:
        raise ConfigError(
            f"groups_per_step must be a multiple of the number of ranks ({world_size}), got {config.groups_per_step}"
        )
    if not config.tracking.is_auto:
        check_installed(config.tracking.trackers)
    check_name(config.model.name)
    if rank == 0:
        _check_kept(config)
        check_trace(config.trace)
    real = open_real_images(config)
    asks = bool(config.prompts.ask) and not config.resume
    prompts = None if asks else open_prompts(config, real, tell=_log.info if rank == 0 else _log.debug)
    # All that can be refused comes before the folder: a port in use must not cost an earlier run.
    socket = RankSocket(
        next_endpoint(config.stream.endpoint, rank),
        insecure=config.stream.insecure,
        advertise=next_advertised(config.stream.advertise, rank),
        keys=read_trainer_keys(Path(config.stream.keys).expanduser()) if config.stream.keys else None,
        max_connections=config.stream.max_connections,
        group_bytes=config.generator.group_bytes,
    )
    stack.callback(socket.close)
    metrics = stack.enter_context(open_metrics(config, rank)) if config.metrics else None
    if rank != 0:
        return Opening(prompts, real, socket, None, metrics, events)
    addresses = _producers_metrics(config, world_size)
    dashboard = stack.enter_context(_open_dashboard(config)) if config.dashboard else None
    # A folder that is refused gets no lock file; one that is taken in between is refused by `prepare`.
    run_folder.check(config.run_dir, overwrite=config.overwrite, resume=config.resume, flag=config.folder_flag)
    # Before the asking: one that another trainer holds is refused, too, before anybody is paid.
    stack.enter_context(run_folder.lock(config.run_dir, config.folder_flag))
    asked = _ask(config, real) if asks else ()
    folder = run_folder.prepare(
        config.run_dir, overwrite=config.overwrite, resume=config.resume, flag=config.folder_flag
    )
    if asks:
        write_asked(folder.prompts, asked)
        prompts = open_prompts(config, real, tell=_log.info)
    nearby = f" (here: {socket.local_endpoint})" if socket.local_endpoint != socket.endpoint else ""
    _log.info("run %s listens at %s%s", folder.run_id, socket.endpoint, nearby)
    local = config.local_fleet
    if not local.local_producers + local.local_image_producers:
        return Opening(prompts, real, socket, None, metrics, events, dashboard)
    key = str(Path(config.stream.keys).expanduser() / TRAINER_KEY) if config.stream.keys else ""
    fleet = LocalFleet(local, socket.local_endpoint, folder, config.real, addresses, key=key)
    return Opening(prompts, real, socket, stack.enter_context(fleet), metrics, events, dashboard)


def open_prompts(
    config: TrainConfig,
    real: RealImages | None,
    folder: Path | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> PromptSource:
    """The captions of all groups; those that were asked for lie in `folder`, which is the run's where none is given.

    Raises:
        ConfigError: they cannot be read, or have no concepts where they are learnt.
        RunError: what was asked for is not there.
    """
    described = config.prompts
    if described.ask:
        kept = (folder or config.run_dir) / run_folder.PROMPTS
        if not kept.is_file():
            raise RunError(
                f"{kept} is missing: it keeps what was made of --ask, which a resumed run does not ask again"
            )
        described = replace(described, ask="", source=str(kept))
    prompts = open_source(described, config.seed, tell)
    check_gaps(prompts, config)
    if real is not None:
        prompts = MixedPrompts(prompts, real.prompts, config.real.fraction, config.seed)
    check_concepts(prompts, config)
    return prompts


def open_metrics(config: TrainConfig, rank: int) -> "MetricsServer":
    """Where the metrics of `rank` are served. Raises ConfigError, EndpointError."""
    from penstock.telemetry.metrics_server import MetricsServer  # not loaded where nobody asks for it

    return MetricsServer(parse_address(config.metrics, "metrics").shifted(rank))


def _producers_metrics(config: TrainConfig, world_size: int) -> Sequence[Address]:
    """Where each of the run's own producers serves its metrics: the next free ports above those of the ranks."""
    if not config.metrics:
        return ()
    from penstock.telemetry.metrics_server import free_addresses

    local = config.local_fleet
    above = parse_address(config.metrics, "metrics").shifted(world_size)
    return free_addresses(above, local.local_producers + local.local_image_producers)


def _open_dashboard(config: TrainConfig) -> "Dashboard":
    """The live page, which listens already. Raises ConfigError, EndpointError."""
    from penstock.telemetry.dashboard.guard import TOKEN, choose_token  # not loaded where nobody asks for it
    from penstock.telemetry.dashboard.server import Dashboard

    address = parse_address(config.dashboard, "dashboard")
    return Dashboard(address, choose_token(address, os.environ), is_own=bool(os.environ.get(TOKEN)))


def check_trace(trace: str) -> None:
    """Raises ConfigError where no trace can be written: at the run's end it would be too late to learn of it."""
    if not trace:
        return
    path = Path(os.path.expanduser(trace))  # which leaves a user who is unknown as it is
    if path.is_dir():
        raise ConfigError(f"trace must name a file, got the folder {path}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"trace cannot be written to {path}: {path.parent}: {error.strerror or error}") from error
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"trace cannot be written to {path}: its folder may not be written")


def _check_kept(config: TrainConfig) -> None:
    """Raises ConfigError where `--overwrite` would clear the captions of the run, which may have cost money."""
    source = os.path.expanduser(config.prompts.source)
    if config.overwrite and os.path.exists(source) and Path(source).resolve().is_relative_to(config.run_dir.resolve()):
        raise ConfigError(
            f"prompts.source {source} lies in {config.run_dir}, which --overwrite clears; copy it elsewhere, or choose "
            "another --run-dir"
        )


def _ask(config: TrainConfig, real: RealImages | None) -> Sequence[AskedPrompt]:
    """What `--ask` becomes, opened once to see that the run can use it.

    Raises as `ask` and `open_prompts` do; what has been asked for by then is kept, and the error says where.
    """
    if config.prompts.balance_counts:
        read_targets(Path(config.prompts.balance_counts))
    asked = ask(config.prompts, os.environ)
    scratch = Path(tempfile.mkdtemp(prefix="penstock-asked-"))
    write_asked(scratch / run_folder.PROMPTS, asked)
    try:
        open_prompts(config, real, scratch)
    except ConfigError as error:
        raise ConfigError(f"{error}; what was asked for is kept in {scratch / run_folder.PROMPTS}") from error
    shutil.rmtree(scratch)
    return asked
