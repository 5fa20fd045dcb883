"""What a rank opens before torch is loaded: prompts, address, run folder, and the producers that it starts itself.

Loading torch takes seconds, here and in every producer; what can fail at once fails before, and the producers load
theirs meanwhile.
"""

import logging
from contextlib import ExitStack
from dataclasses import dataclass

from penstock.consumer import run_folder
from penstock.consumer.config import TrainConfig
from penstock.consumer.local_fleet import LocalFleet
from penstock.consumer.prompts.mixed import MixedPrompts
from penstock.consumer.prompts.opening import check_concepts, check_gaps, open_source
from penstock.consumer.prompts.source import PromptSource
from penstock.consumer.real_images import RealImages, open_real_images
from penstock.consumer.tracking_config import check_installed
from penstock.consumer.vit_sizes import check_name
from penstock.protocol.errors import ConfigError
from penstock.protocol.sockets import RankSocket, next_endpoint

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Opening:
    """What `open_run` has opened."""

    prompts: PromptSource
    """Of all groups, generated and real."""
    real: RealImages | None
    """The set of real images; None where the run uses none."""
    socket: RankSocket
    """Bound; producers that dial it wait until the stream starts."""
    fleet: LocalFleet | None
    """The producers that this rank started."""


def open_run(config: TrainConfig, rank: int, world_size: int, stack: ExitStack) -> Opening:
    """Open what needs no torch, `stack` closes it; rank 0 also prepares the run folder and starts local producers.

    Raises:
        ConfigError: a package is missing, the prompts or the set of real images cannot be read, or have no concepts
            where they are learnt, or the batch cannot be divided among the ranks.
        EndpointError: the address is taken or not allowed.
        RunError: the run folder is taken, or there is nothing to resume.
    """
    if config.groups_per_step % world_size:
        raise ConfigError(
            f"groups_per_step must be a multiple of the number of ranks ({world_size}), got {config.groups_per_step}"
        )
    check_installed(config.tracking.trackers)
    check_name(config.model.name)
    prompts = open_source(config.prompts, config.seed, tell=_log.info if rank == 0 else _log.debug)
    check_gaps(prompts, config)
    real = open_real_images(config)
    if real is not None:
        prompts = MixedPrompts(prompts, real.prompts, config.real.fraction, config.seed)
    check_concepts(prompts, config)
    # All that can be refused comes before the folder: a port in use must not cost an earlier run.
    socket = RankSocket(
        next_endpoint(config.stream.endpoint, rank),
        insecure=config.stream.insecure,
        group_bytes=config.generator.group_bytes,
    )
    stack.callback(socket.close)
    if rank != 0:
        return Opening(prompts, real, socket, None)
    # A folder that is refused gets no lock file; one that is taken in between is refused by `prepare`.
    run_folder.check(config.run_dir, overwrite=config.overwrite, resume=config.resume)
    stack.enter_context(run_folder.lock(config.run_dir))
    folder = run_folder.prepare(config.run_dir, overwrite=config.overwrite, resume=config.resume)
    _log.info("run %s listens at %s", folder.run_id, socket.endpoint)
    local = config.local_fleet
    if not local.local_producers + local.local_image_producers:
        return Opening(prompts, real, socket, None)
    fleet = LocalFleet(local, socket.endpoint, folder, config.real)
    return Opening(prompts, real, socket, stack.enter_context(fleet))
