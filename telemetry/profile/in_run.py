"""What the run itself says of its bottleneck, without the ablations: who waited, and which queues were empty or full.

A queue before the bottleneck is full, one behind it is empty. The trainer's wait tells whether it is the trainer; if it
is not, groups that are here and not in batches tell of the host; producers that are at work all the time, of producers.
"""

import statistics
from collections.abc import Set
from dataclasses import dataclass

from penstock.telemetry.profile.capacities import HOST, PRODUCERS, TRAINER, WIRE
from penstock.telemetry.profile.measurements import Measurements, Queue, Together
from penstock.telemetry.summary import FED_FRACTION, STARVED_FRACTION

FULL, EMPTY = 0.6, 0.25
"""Mean filling of a queue that counts as full, and as empty."""
AT_WORK, IDLE = 0.9, 0.7
"""Share of their time that the engines work, above which they and below which others are the bottleneck."""


@dataclass(frozen=True, slots=True)
class InRun:
    """What the run says."""

    sides: Set[str]
    """The sides that it may be; all of them where the run does not tell."""
    sentence: str


def read(measurements: Measurements, together: Together) -> InRun:
    """Which sides the run's own figures point at."""
    waited = f"The trainer waited {together.wait_share:.1%} of its time{_expected(measurements, together)}"
    arrived = _filling(together, "arrived")
    said = f"{waited}{_queues(together)}"
    if together.wait_share <= FED_FRACTION:
        return InRun(frozenset({TRAINER}), said)
    if together.wait_share < STARVED_FRACTION:
        return InRun(frozenset({PRODUCERS, WIRE, HOST, TRAINER}), said)
    if arrived is not None and arrived >= FULL:
        return InRun(frozenset({HOST}), said)
    sides = {PRODUCERS, WIRE} if arrived is not None and arrived <= EMPTY else {PRODUCERS, WIRE, HOST}
    working = [each.busy_share for each in measurements.makers if each.busy_share is not None]
    if not working:
        return InRun(frozenset(sides), said)
    share = statistics.fmean(working)
    said += f"; the engines worked {share:.0%} of theirs"
    if share >= AT_WORK:
        sides -= {WIRE, HOST}
    elif share < IDLE:
        sides -= {PRODUCERS}
    return InRun(frozenset(sides), said)


def filling(queue: Queue) -> float | None:
    """Mean filling, 0 to 1; None where nobody looked."""
    if not queue.filled or queue.capacity <= 0:
        return None
    return statistics.fmean(queue.filled) / queue.capacity


def _filling(together: Together, name: str) -> float | None:
    return next((filling(queue) for queue in together.queues if queue.name == name), None)


def _expected(measurements: Measurements, together: Together) -> str:
    """How long one that waited should have, by what it can do alone; empty where that is hardly ever."""
    is_starved = together.wait_share >= STARVED_FRACTION
    if not is_starved or measurements.trainer is None or measurements.trainer.images_per_s <= 0:
        return ""
    share = 1 - together.trained.images_per_s / measurements.trainer.images_per_s
    return f" (by its own rate: {share:.0%})" if share >= STARVED_FRACTION else ""


def _queues(together: Together) -> str:
    """How full the queues were in front of the trainer, for people."""
    said = ""
    if (arrived := _filling(together, "arrived")) is not None:
        said += f", arrived groups filled {arrived:.0%} of their room"
    if (batches := _filling(together, "batches")) is not None:
        said += f", a batch lay ready {batches:.0%} of the time"
    return said
