"""Who is clearly slower than the others of its kind: producers by their rate, ranks by their step."""

import statistics
from collections.abc import Iterator

from penstock.telemetry.profile.measurements import Measurements, StageTimes
from penstock.telemetry.profile.wording import duration, per_s

SLOW_PRODUCER = 0.7
"""A producer that makes less than this of what the others make at the median is a straggler."""
SLOW_RANK = 1.2
"""A rank whose step takes more than this many times the others' median is one."""


MAX_NAMED = 5
"""Sentences about stragglers; of the others only the number is told."""


def stragglers(measurements: Measurements) -> list[str]:
    """A sentence for each, the slowest producers first; none where there are not two to compare."""
    found = [*_producers(measurements), *_ranks(measurements)]
    more = [f"And {len(found) - MAX_NAMED:,} more."] if len(found) > MAX_NAMED else []
    return [*found[:MAX_NAMED], *more]


def slow_producers(measurements: Measurements) -> set[str]:
    """Names of the producers that are stragglers."""
    return {name for name, _, _ in _slow(measurements)}


def slowest_step(measurements: Measurements) -> StageTimes | None:
    """The step of the rank whose median is the longest; None where no rank has noted one."""
    steps = [each.stages["step"] for each in measurements.ranks if "step" in each.stages]
    return max(steps, key=lambda step: step.p50_s, default=None)


def _slow(measurements: Measurements) -> Iterator[tuple[str, float, float]]:
    """Name, rate alone, median of the others; the slowest first."""
    rates = sorted(each.alone_images_per_s for each in measurements.makers)
    for place, each in enumerate(sorted(measurements.makers, key=lambda each: each.alone_images_per_s)):
        others = rates[:place] + rates[place + 1 :]
        if others and each.alone_images_per_s < SLOW_PRODUCER * statistics.median(others):
            yield each.name, each.alone_images_per_s, statistics.median(others)


def _producers(measurements: Measurements) -> Iterator[str]:
    for name, rate, median in _slow(measurements):
        yield f"Producer {name} made {per_s(rate)} into the sink, the others {per_s(median)} at the median."


def _ranks(measurements: Measurements) -> Iterator[str]:
    steps = {each.rank: each.stages["step"].p50_s for each in measurements.ranks if "step" in each.stages}
    for rank, step_s in steps.items():
        others = [other_s for other, other_s in steps.items() if other != rank]
        if others and step_s > SLOW_RANK * statistics.median(others):
            median = duration(statistics.median(others))
            yield f"Rank {rank} took {duration(step_s)} for a step at the median, the others {median}."
