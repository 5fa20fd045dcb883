"""What a profile measures: each part of the way alone, then all together. Plain figures; what they mean is elsewhere.

Images are counted where they are: the fleet and the wire move images that are *made*, host and trainer take images that
are *trained on*, of which one that was made gives e (`Measurements.reuse`). Rates are over all producers and all ranks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Images in a stretch of time."""

    images: int
    seconds: float
    windows: tuple[float, ...] = ()
    """Images/s of each of the parts of equal length that the stretch is cut into, in order: how steady it was. A batch
    should be a small part of a window's images, or the windows say more of batches than of the rate."""
    nbytes: int = 0
    """Bytes that travelled for them; 0 where none did."""
    busy_share: float | None = None
    """Of the usable cores of the trainer's machine, the mean share that was busy, 0 to 1; None where unknown."""

    @property
    def images_per_s(self) -> float:
        """0 where there was no time."""
        return self.images / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimes:
    """How long a stage of one process took, each time, in the measured time together."""

    count: int
    seconds: float
    """In all."""
    p50_s: float
    p95_s: float
    p99_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerMeasured:
    """One producer."""

    name: str
    device: str
    backend: str
    is_local: bool
    """Whether it runs on the trainer's machine."""
    alone_images_per_s: float
    """Into the sink, while the others also filled it."""
    together_images_per_s: float
    """While the trainer ran too."""
    engine_images_per_s: float | None = None
    """What its engine makes in the time that it works, with what a filter rejects; None where it has not said so."""
    ready_s: float | None = None
    """From the start of the profile until it was ready; None where it was ready before."""
    busy_share: float | None = None
    """Of the time together that its engine worked, 0 to 1; None where it has not said so."""
    flop_share: float | None = None
    """Its arithmetic as a share of what matrix products reach on its device; None where that is unknown."""
    generates: bool = True
    """Whether it makes images; else it looks real ones up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankMeasured:
    """One rank, in the time together."""

    rank: int
    device: str
    images_trained: int
    images_arrived: int
    wait_s: float
    """That its training thread waited for batches."""
    stages: Mapping[str, StageTimes]
    """Of its threads, by the recorder's names; `sample_age` is how old a group was when a step used it."""
    flops_per_step: float | None = None
    matrix_flops_per_s: float | None = None
    """What large matrix products reach on its device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """How long a producer took for a rank's tickets, from STARTED to the group, in the time together."""

    producer: str
    rank: int
    groups: int
    p50_s: float
    p95_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A place of rank 0 where groups wait, looked at again and again."""

    name: str
    """`tickets` (in producers' hands), `arrived`, `reservoir` or `batches`, in the order of the data's way."""
    capacity: int
    """Groups; of `batches`, batches."""
    filled: tuple[int, ...]
    """At each of `Together.sampled_at_s`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """All at once, after the warm-up and after what lay in buffers was used up."""

    trained: Rate
    """Images in the steps that were done."""
    arrived: Rate
    """Images that came meanwhile."""
    steps: int
    wait_share: float
    """Of the time, that a rank waited for its batch; mean over the ranks, 0 to 1."""
    sampled_at_s: tuple[float, ...] = ()
    """Since the beginning of the stretch."""
    queues: tuple[Queue, ...] = ()
    groups_by_uses: tuple[int, ...] = ()
    """How many groups had been used u times at the end, at place u."""
    expired: int = 0
    hedged: int = 0
    quarantined: int = 0
    rejects: Mapping[str, int] = field(default_factory=dict)
    """Messages dropped, by reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What a device costs, in any currency; 0 for unknown."""

    producer_per_hour: float = 0.0
    trainer_per_hour: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """All that a profile has measured. A part is None where it was not measured."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    measured_at: float
    """Seconds since the epoch."""
    seconds: float
    """The profile's wall time, warm-up included."""
    command: str
    """A line for the shell that measures the same again."""
    config_digest: str
    """Of all settings that decide what is measured."""
    environment: Mapping[str, str]
    """What people want to know of the machine and its software, such as `GPU` or `torch`."""
    cores: int
    """Usable ones of the trainer's machine."""
    is_paced: bool
    """Whether steps were sleeps, or producers': a rehearsal."""
    world_size: int
    groups_per_step: int
    """Over all ranks."""
    images_per_group: int
    images_per_use: int
    """Images of a group that each use takes."""
    policy: str
    """Of reuse: `fixed`, `adaptive` or `fresh`."""
    min_reuse: int
    max_reuse: int
    """Uses of a group."""
    producers: tuple[ProducerMeasured, ...]
    ranks: tuple[RankMeasured, ...]
    fleet: Rate | None
    """P: images made into a sink, all producers at once; where the wire held them back, what their engines make in the
    time that they work."""
    wire: Rate | None
    """W: images of no engine that all producers sent, and that were received as any."""
    host: Rate | None
    """H: images in batches that the ranks' hosts prepared from groups in memory, the copy to the device included."""
    trainer: Rate | None
    """T: images that steps took from batches that were ready."""
    together: Together | None
    services: tuple[Service, ...] = ()
    left: tuple[str, ...] = ()
    """Producers that have gone since measuring began."""
    joined: tuple[str, ...] = ()
    """Those that have come since; they are not among `producers`."""
    warmup_s: Mapping[str, float] = field(default_factory=dict)
    """What was waited for before anything was measured, by name: `producers`, `first groups`, `first step`."""
    overhead_share: float | None = None
    """What measuring costs, as a share of the time together; None where unknown."""
    prices: Prices = field(default_factory=Prices)

    @property
    def makers(self) -> tuple[ProducerMeasured, ...]:
        """The producers that are counted, compared and priced: those that generate, where some do.

        Beside them one that looks real images up idles, and more of it would bring nothing.
        """
        return tuple(each for each in self.producers if each.generates) or self.producers

    @property
    def images_per_step(self) -> int:
        """Over all ranks."""
        return self.groups_per_step * self.images_per_use

    @property
    def reuse(self) -> float:
        """e: images that may be trained on for each that is made."""
        return self.max_reuse * self.images_per_use / self.images_per_group
