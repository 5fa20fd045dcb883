"""Two profiles side by side: what became slower, and whether the two can be compared at all.

Only rates count: what the run reached, and what each part could do alone. Waits and step times are shown beside them:
they explain a change and are none of their own.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from penstock.telemetry.profile.capacities import SPAN, SYMBOLS, UNKNOWN_SPREAD, Capacity
from penstock.telemetry.profile.stragglers import slowest_step
from penstock.telemetry.profile.summary import ProfileSummary
from penstock.telemetry.profile.wording import duration

PASSING = {"load average"}
"""What an environment says of a moment, which no two profiles share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A rate of both profiles."""

    name: str
    before: float
    """Images trained on per second."""
    after: float
    is_regression: bool
    """Whether it fell by more than the tolerance."""
    is_within_noise: bool
    """Whether the 95% intervals of both overlap, so that it may be the same rate."""

    @property
    def ratio(self) -> float:
        """After / before."""
        return self.after / self.before if self.before else math.inf if self.after else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Profile B against profile A."""

    changes: tuple[Change, ...]
    context: tuple[tuple[str, str, str], ...]
    """What is no rate: its name, A's and B's, as text."""
    differences: tuple[str, ...]
    """What else than the code differs, so that the rates may for that reason."""
    lost: tuple[str, ...]
    """What A has and B does not: no longer measured, or none came."""

    @property
    def regressions(self) -> tuple[Change, ...]:
        """The rates that fell by more than the tolerance."""
        return tuple(change for change in self.changes if change.is_regression)


def compare(before: ProfileSummary, after: ProfileSummary, tolerance: float) -> Comparison:
    """Hold B against A.

    Args:
        before: A, the base.
        after: B.
        tolerance: share by which a rate may fall.
    """
    old, new = _rates(before), _rates(after)
    return Comparison(
        changes=tuple(_change(name, old[name], new[name], tolerance) for name in old if name in new),
        context=tuple(_context(before, after)),
        differences=tuple(_differences(before, after)),
        lost=tuple(name for name in old if name not in new),
    )


def _rates(summary: ProfileSummary) -> dict[str, Capacity]:
    """What the run reached, then the capacities."""
    reached = {"all together": summary.achieved} if summary.achieved else {}
    return reached | {f"{SYMBOLS[part.side]} {part.side}": part for part in summary.capacities}


def _change(name: str, before: Capacity, after: Capacity, tolerance: float) -> Change:
    noise = _half_width(before) + _half_width(after)
    return Change(
        name=name,
        before=before.images_per_s,
        after=after.images_per_s,
        is_regression=after.images_per_s < (1 - tolerance) * before.images_per_s,
        is_within_noise=abs(after.images_per_s - before.images_per_s) <= noise,
    )


def _half_width(rate: Capacity) -> float:
    """Of its 95% interval, images/s; where its spread is not known, by what a verdict takes that for."""
    return SPAN * UNKNOWN_SPREAD * rate.images_per_s if rate.half_width is None else rate.half_width


def _context(before: ProfileSummary, after: ProfileSummary) -> Iterator[tuple[str, str, str]]:
    yield "verdict", before.verdict.kind, after.verdict.kind
    old, new = before.measurements.together, after.measurements.together
    if old and new:
        yield "trainer waited", f"{old.wait_share:.1%}", f"{new.wait_share:.1%}"
    old_step, new_step = slowest_step(before.measurements), slowest_step(after.measurements)
    if old_step and new_step:
        yield "step p50", duration(old_step.p50_s), duration(new_step.p50_s)
        yield "step p95", duration(old_step.p95_s), duration(new_step.p95_s)


def _differences(before: ProfileSummary, after: ProfileSummary) -> Iterator[str]:
    old, new = before.measurements, after.measurements
    if old.config_digest != new.config_digest:
        yield f"the settings differ (digests {old.config_digest} and {new.config_digest})"
    sizes = [("producers", len(old.producers), len(new.producers)), ("ranks", old.world_size, new.world_size)]
    for what, ours, theirs in (*sizes, ("cores", old.cores, new.cores)):
        if ours != theirs:
            yield f"{what}: {ours} and {theirs}"
    if old.is_paced != new.is_paced:
        yield f"{'A' if old.is_paced else 'B'} is a rehearsal, whose work is a sleep"
    for name in sorted((old.environment.keys() | new.environment.keys()) - PASSING):
        if old.environment.get(name) != new.environment.get(name):
            yield f"{name}: {old.environment.get(name, 'none')} and {new.environment.get(name, 'none')}"
