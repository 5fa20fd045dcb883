"""What each rank has measured, and the whole of it: rank 0 puts the ranks' parts together."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from penstock.consumer.profile_run.meeting import Met
from penstock.consumer.profile_run.pouring import added
from penstock.consumer.profile_run.together import Seen
from penstock.telemetry.profile.measurements import ProducerMeasured, RankMeasured, Rate, Together

_HELD_BACK = 1.15
"""A sink into which nearly as much comes as over the wire alone is one that the wire may hold back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One rank's measurements."""

    rank: int
    device: str
    fleet: Rate
    wire: Rate
    host: Rate
    trainer: Rate
    first_step_s: float
    alone_by_producer: dict[str, float]
    """Images/s into this rank's sink."""
    engines: dict[str, float]
    """Images/s that each producer's engine makes while it works; of those that say so."""
    seen: Seen
    flops_per_step: float | None = None
    matrix_flops_per_s: float | None = None

    @property
    def measured(self) -> RankMeasured:
        """As the profile tells it."""
        return RankMeasured(
            rank=self.rank,
            device=self.device,
            images_trained=self.seen.trained.images,
            images_arrived=self.seen.arrived.images,
            wait_s=self.seen.wait_s,
            stages=self.seen.stages,
            flops_per_step=self.flops_per_step,
            matrix_flops_per_s=self.matrix_flops_per_s,
        )


def fleet(met: Sequence[Met], parts: Sequence[Part], *, is_filtered: bool = False) -> Rate:
    """P: what came into all sinks, or, where the wire held that back, what the engines make in the time they work.

    What comes into a sink has come over the wire, so where as much came as the wire carries alone, it says nothing of
    how much more the fleet could make. Of a fleet part of which looks real images up, no sum of engines
    tells; nor where the images are filtered, as engines count those that are rejected, too.
    """
    sink, wire = added([part.fleet for part in parts]), added([part.wire for part in parts])
    engines = parts[0].engines
    makes = sum(engines.values())
    is_held_back = wire.images_per_s < _HELD_BACK * sink.images_per_s and sink.images_per_s < makes / _HELD_BACK
    is_told = engines.keys() == {each.name for each in met} and len({each.generates for each in met}) == 1
    if not is_held_back or not is_told or is_filtered:
        return sink
    share = sink.images_per_s / makes
    return replace(sink, seconds=sink.seconds * share, windows=tuple(rate / share for rate in sink.windows))


def producers(met: Iterable[Met], parts: Sequence[Part]) -> tuple[ProducerMeasured, ...]:
    """The producers, with what all ranks had of them."""
    return tuple(
        ProducerMeasured(
            name=each.name,
            device=each.device,
            backend=each.backend,
            is_local=each.is_local,
            ready_s=each.ready_s,
            generates=each.generates,
            alone_images_per_s=sum(part.alone_by_producer.get(each.name, 0.0) for part in parts),
            together_images_per_s=sum(part.seen.by_producer.get(each.name, 0.0) for part in parts),
            busy_share=parts[0].seen.busy_shares.get(each.name),
            flop_share=parts[0].seen.flop_shares.get(each.name),
            engine_images_per_s=parts[0].engines.get(each.name),
        )
        for each in met
    )


def together(parts: Sequence[Part]) -> Together:
    """The measured stretch, over all ranks; queues are rank 0's, whose part is the first."""
    first = parts[0].seen
    trained, arrived = added([part.seen.trained for part in parts]), added([part.seen.arrived for part in parts])
    rejects: Counter[str] = Counter()
    for part in parts:
        rejects.update(part.seen.rejects)
    waits = [part.seen.wait_s / part.seen.trained.seconds for part in parts]
    uses = [part.seen.groups_by_uses for part in parts]
    most = max(map(len, uses))
    return Together(
        trained=trained,
        arrived=replace(arrived, busy_share=None),
        steps=first.steps,
        wait_share=min(1.0, sum(waits) / len(waits)),
        sampled_at_s=first.sampled_at_s,
        queues=first.queues,
        groups_by_uses=tuple(sum(row[place] if place < len(row) else 0 for row in uses) for place in range(most)),
        expired=sum(part.seen.expired for part in parts),
        hedged=sum(part.seen.hedged for part in parts),
        quarantined=sum(part.seen.quarantined for part in parts),
        rejects=dict(rejects),
    )
