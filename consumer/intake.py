"""A rank's way from its settings to its batches: the state machine, the stream, the feed, what runs ahead of the steps.

The trainer puts these together here, and so does the paced trainer, whose steps only take time.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict

import torch

from penstock.consumer.batch import Reader
from penstock.consumer.config import TrainConfig
from penstock.consumer.feed import Feed
from penstock.consumer.feed_state import FeedState
from penstock.consumer.filter_counts import FilterCounts
from penstock.consumer.kept_groups import Groups
from penstock.consumer.ledger import Ledger
from penstock.consumer.prefetch import Prefetcher
from penstock.consumer.prompts.source import PromptSource
from penstock.consumer.prompts.writer import TicketWriter
from penstock.consumer.reservoir import Reservoir
from penstock.consumer.run_folder import RunFolder
from penstock.consumer.schedule import Share, open_order
from penstock.consumer.stream import GroupStream
from penstock.protocol.addresses import check_distinct
from penstock.protocol.admission import Expectation
from penstock.protocol.dispatcher import Patience
from penstock.protocol.rank_machine import RankMachine
from penstock.protocol.sockets import RankSocket
from penstock.protocol.tickets import Kind
from penstock.telemetry.recorder import Recorder


def open_stream(
    config: TrainConfig,
    folder: RunFolder,
    socket: RankSocket,
    rank: int,
    endpoints: Sequence[str],
    keys: Sequence[str],
    expects: Expectation | None,
    watch: Callable[[Kind], str | None] = lambda kind: None,
    real: Expectation | None = None,
    *,
    traces: bool = False,
    recorder: Recorder | None = None,
) -> GroupStream:
    """The stream of `rank`, not yet started.

    Args:
        config: the run's settings.
        folder: says which run and which of its lives it is.
        socket: bound at `endpoints[rank]`.
        rank: whose.
        endpoints: addresses of all ranks, by rank.
        keys: their public keys; none where the links have no keys.
        expects, real: as in `RankMachine`.
        watch, recorder: as in `GroupStream`.
        traces: whether producers are asked for their events.

    Raises ConfigError where two ranks have the same address.
    """
    stream = config.stream
    socket.admit_ranks(keys)
    check_distinct(endpoints)
    machine = RankMachine(
        run_id=folder.run_id,
        incarnation=folder.incarnation,
        rank=rank,
        endpoints=tuple(endpoints),
        keys=tuple(keys),
        expects=expects,
        real=real,
        order=config.order,
        window_groups=max(1, stream.window_groups // len(endpoints)),
        window_bytes=stream.window_bytes,
        patience=Patience(
            heartbeat_s=stream.heartbeat_s,
            lease_s=stream.lease_s,
            max_attempts=stream.max_attempts,
        ),
        traces=traces,
        key_name=socket.key_name,
    )
    return GroupStream(socket, machine, stream, watch, recorder)


def open_ledger(
    config: TrainConfig, folder: RunFolder, rank: int, world_size: int, model_digest: str, real_digest: str = ""
) -> Ledger:
    """The ledger of `rank`, with the row that begins this life.

    Args:
        config: the run's settings.
        folder: says which run and which of its lives it is.
        rank, world_size: whose.
        model_digest: of the generator; empty where every group is real.
        real_digest: of the set of real images; empty where no group is real.
    """
    life = {
        "life": folder.incarnation,
        "run_id": folder.run_id,
        "seed": config.seed,
        "rank": rank,
        "world_size": world_size,
        "model_digest": model_digest,
        "real_digest": real_digest,
        "images_per_use": config.images_per_use,
        "order": config.order,
        "groups_per_step": config.groups_per_step,
        **{name: asdict(getattr(config, name)) for name in ("prompts", "generator", "filter", "real", "reservoir")},
    }
    return Ledger(folder.ledger(rank), life, config.capacity_groups)


def open_batches(
    config: TrainConfig,
    prompts: PromptSource,
    stream: Groups,
    ledger: Ledger,
    model_digest: str,
    state: FeedState,
    steps: range,
    device: torch.device,
    keeps_state: Callable[[int], bool] = lambda step: False,
    tokenize: Callable[[Sequence[str]], torch.Tensor] | None = None,
    scorer_digest: str = "",
) -> Prefetcher:
    """The batches of `steps` for the rank that `state` names; the first is prepared once the result is entered.

    Args:
        config: the run's settings.
        prompts: what they name as the source of captions.
        stream: started, or what stands in its place; its recorder takes note of the batches too.
        ledger: this rank's.
        model_digest: of the generator that the run uses.
        state: where the rank stands.
        steps, device, keeps_state: as in `Prefetcher`.
        tokenize: captions to int64 [G, L]; None where nothing reads them.
        scorer_digest: of what filters the images; empty where nothing does.
    """
    share = Share(
        rank=state.rank,
        world_size=state.world_size,
        seed=config.seed,
        groups_per_step=config.groups_per_step,
        capacity_groups=config.capacity_groups,
        policy=config.reservoir.reuse_policy,
    )
    writer = TicketWriter(prompts, config, model_digest, scorer_digest)
    feed = Feed(
        stream=stream,
        writer=writer,
        order=open_order(config.order, share),
        reservoir=Reservoir(capacity_groups=share.capacity, policy=share.policy),
        state=state,
        step=steps.start,
        seed=config.seed,
        images_per_use=config.images_per_use,
        pin_memory=device.type == "cuda",
        reader=Reader(writer.concept, tokenize),
        recorder=stream.recorder,
    )
    counts = FilterCounts(len(prompts.concepts), writer.concept) if config.filter.is_on else None
    return Prefetcher(feed, ledger, device, steps, keeps_state, counts, stream.recorder)
