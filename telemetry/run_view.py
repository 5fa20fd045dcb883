"""A run at one moment, as the live views show it: plain data that the trainer fills in, and terminal and page read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from penstock.telemetry.summary import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueView:
    """A place where groups wait, and how full it is."""

    name: str
    """`tickets`, `arrived`, `reservoir` or `batches`, in the order of the data's way."""
    filled: int
    """Groups; of `batches`, batches."""
    capacity: int
    nbytes: int = 0
    """Bytes of what is there; 0 where nothing is, or where it is not counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageView:
    """How long a stage takes, of late."""

    share: float
    """Of the last seconds, 0 to 1; of several threads' work each counts."""
    p50_s: float
    p95_s: float
    p99_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerView:
    """A producer; one that has left stays in view for a while."""

    name: str
    state: str
    """`warming`, `ready`, `suspect`, `stalled`, `draining` or `gone`."""
    device: str
    backend: str
    images: int
    """That have arrived from it."""
    images_per_s: float
    """Over the last seconds."""
    held: int
    """Tickets in its hands."""
    credit_groups: int
    silent_s: float
    """Since it was last heard."""
    p50_s: float | None = None
    """From the beginning of a ticket's work to its group; None before the first."""
    p95_s: float | None = None
    busy_share: float | None = None
    """Of the last seconds that its engine worked, 0 to 1; None where it has not said so."""
    flop_share: float | None = None
    """Its arithmetic as a share of what matrix products reach on its device; None where it does not know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventView:
    """A line of the log that an operator wants to read."""

    at: float
    """Seconds since the epoch."""
    is_warning: bool
    text: str


@dataclass(frozen=True, slots=True)
class GroupView:
    """A group that has just arrived."""

    index: int
    prompt: str
    producer: str
    images: NDArray[np.uint8]
    """uint8 [m, H, W, 3]; where `shape` is given the first of them, made small."""
    shape: tuple[int, ...] | None = None
    """[m, H, W, 3] of the group as it came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """The figures of a run at one moment. Rates and shares are over the last seconds, unless they say otherwise."""

    at: float
    """Seconds since the epoch."""
    run_id: str
    run_dir: str
    objective: str
    state: str
    """`waiting` for the first group, `running`, `stalled` or `ended`."""
    waiting_for: str | None
    """What the rank waits for, where it does."""
    rank: int
    world_size: int
    step: int
    """Optimizer steps done."""
    max_steps: int
    seconds: float
    """Since the trainer was started."""
    images_made: int
    """That have arrived at this rank."""
    images_trained: int
    """On this rank."""
    made_per_s: float
    trained_per_s: float
    steps_per_s: float = 0.0
    """Optimizer steps."""
    reuse: float
    """Uses per image, since the beginning."""
    data_wait: float
    """Share of the time that the training thread waited for its batch, 0 to 1."""
    bytes_per_s: float
    """That came over the wire."""
    flop_share: float | None
    """The trainer's arithmetic as a share of what matrix products reach; None where that is unknown."""
    loss: Sequence[tuple[int, float]]
    """(step, value), thinned out where there are many."""
    knn: Sequence[tuple[int, float]]
    rankme: Sequence[tuple[int, float]]
    queues: Sequence[QueueView]
    stages: Mapping[str, StageView]
    """Of this process, by name."""
    producers: Sequence[ProducerView]
    """By name."""
    verdict: Verdict
    expired: int
    hedged: int
    quarantined: int
    rejects: Mapping[str, int]
    """Messages dropped, by reason."""
    filtered: float | None = None
    """Share of the images made that the mismatch filter has rejected, 0 to 1; None where nothing filters."""
    events: Sequence[EventView] = ()
    """The newest last."""
    groups: Sequence[GroupView] = field(default=())
    """The newest first; a few."""
