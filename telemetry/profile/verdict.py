"""Which side bounds the run, on what evidence, and how sure that is.

The ablations decide: the side whose capacity is the smallest bounds the run. They are held against the run itself,
whose parts share cores and caches as in no ablation: how near it came to that capacity, and who waited in it for whom.
Where these contradict, the verdict says so and is less sure; it does not guess another one.
"""

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Literal

from penstock.telemetry.profile import in_run
from penstock.telemetry.profile.capacities import HOST, PRODUCERS, SPAN, SYMBOLS, TRAINER, WIRE, Capacity
from penstock.telemetry.profile.caveats import caveats
from penstock.telemetry.profile.in_run import InRun
from penstock.telemetry.profile.measurements import Measurements, Together
from penstock.telemetry.profile.wording import number, per_s, times

Kind = Literal["producer-bound", "wire-bound", "host-bound", "trainer-bound", "balanced", "not enough data"]
KINDS: dict[str, Kind] = {
    PRODUCERS: "producer-bound",
    WIRE: "wire-bound",
    HOST: "host-bound",
    TRAINER: "trainer-bound",
}
BALANCED_RATIO = 1.1
"""Two capacities that differ by less bound the run together."""
MIN_STEPS = 10
"""With fewer steps together there is no verdict."""
MAX_ERROR = 0.2
"""With a larger standard error of the smallest capacity, as a share of it, there is none either."""
SHORT = 0.9
"""A run that reaches less of the smallest capacity is held back by something that no ablation shows."""
EXCEEDING = 1.1
"""One that goes beyond it shows that the capacity was measured too low."""
BUSY = 0.9
"""Share of the cores above which what runs on them takes from each other."""
DOUBTED = 0.5
"""What is left of the confidence where something was wrong with the conditions."""
MOST_SURE = 0.99
"""No profile of a minute is surer than that."""
HIGH, MEDIUM = 0.8, 0.5
"""Confidences from which on the words are `high` and `medium`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What bounds the run."""

    kind: Kind
    sides: tuple[str, ...]
    """The bounding side; of a balanced run both; none where there is not enough data."""
    headline: str
    evidence: str
    """The figures, in a sentence or two."""
    shortfall: str | None
    """What is to be said where the run stays clearly below every capacity; None where it does not."""
    contradiction: str | None
    """Where the run points at other sides than the ablations; None where it does not."""
    confidence: float
    """0 to 1."""
    because: tuple[str, ...]
    """What the confidence rests on, and what lowers it."""
    caveats: tuple[str, ...] = ()
    """What was wrong with the conditions, so that the rates are not what they are taken for."""

    @property
    def sureness(self) -> str:
        """The confidence as a word."""
        return "high" if self.confidence >= HIGH else "medium" if self.confidence >= MEDIUM else "low"


def judge(measurements: Measurements, parts: Sequence[Capacity], reached: Capacity | None) -> Verdict:
    """The verdict.

    Args:
        measurements: all of them.
        parts: `capacities.capacities` of these.
        reached: `capacities.achieved` of these.
    """
    together = measurements.together
    if together is None or reached is None:
        return _undecided("All together was not measured.", measurements)
    if (missing := _missing(together, parts, reached)) is not None:
        return _undecided(missing, measurements)
    ordered = sorted(parts, key=lambda part: part.images_per_s)
    first, second = ordered[0], ordered[1]
    is_balanced = second.images_per_s < BALANCED_RATIO * first.images_per_s
    sides = (first.side, second.side) if is_balanced else (first.side,)
    seen = in_run.read(measurements, together)
    share = reached.images_per_s / first.images_per_s
    agrees = bool(seen.sides & set(sides))
    doubts = tuple(caveats(measurements, sides))
    factors = [
        _margin(ordered, is_balanced),
        _nearness(share),
        _support(seen, agrees),
        *_unmeasured(parts),
        *((DOUBTED, f"the conditions: {caveat.rstrip('.')}") for caveat in doubts),
    ]
    return Verdict(
        kind="balanced" if is_balanced else KINDS[first.side],
        sides=sides,
        headline=_headline(sides),
        evidence=f"{_figures(ordered)} Together they reached {per_s(reached.images_per_s)}, {share:.0%} of the "
        f"least. {seen.sentence}.",
        shortfall=_shortfall(measurements, reached, share),
        contradiction=None if agrees else _contradiction(sides, seen),
        confidence=min(MOST_SURE, round(math.prod(factor for factor, _ in factors), 3)),
        because=tuple(reason for _, reason in factors),
        caveats=(*doubts, *_excess(first, share)),
    )


def _missing(together: Together, parts: Sequence[Capacity], reached: Capacity) -> str | None:
    """What a verdict lacks."""
    sides = {part.side for part in parts}
    if unmeasured := [side for side in (PRODUCERS, TRAINER) if side not in sides]:
        return f"The {' and the '.join(unmeasured)} could not be measured alone."
    if empty := [part.side for part in parts if part.images_per_s <= 0]:
        return f"Not one image passed in the phase of the {empty[0]} alone."
    if together.steps < MIN_STEPS:
        return f"{together.steps} steps were done all together; a verdict needs at least {MIN_STEPS}."
    if reached.images_per_s <= 0:
        return "Not one image came while all went together: what was trained on lay in memory."
    smallest = min(parts, key=lambda part: part.images_per_s)
    if smallest.error > MAX_ERROR:
        spread = SPAN * smallest.error
        return f"{SYMBOLS[smallest.side]} is known to ±{spread:.0%} only, {per_s(smallest.images_per_s)} on average."
    return None


def _undecided(missing: str, measurements: Measurements) -> Verdict:
    return Verdict(
        kind="not enough data",
        sides=(),
        headline="NOT ENOUGH DATA for a verdict.",
        evidence=missing,
        shortfall=None,
        contradiction=None,
        confidence=0.0,
        because=(),
        caveats=tuple(caveats(measurements)),
    )


def _headline(sides: Sequence[str]) -> str:
    if len(sides) == 2:
        return f"BALANCED: {sides[0]} and {sides[1]} at about the same rate."
    return {
        PRODUCERS: "PRODUCER-BOUND: the trainer could take more images than the fleet makes.",
        WIRE: "WIRE-BOUND: images are made and wanted faster than they travel.",
        HOST: "HOST-BOUND: the trainer's host cannot prepare batches as fast as they are wanted.",
        TRAINER: "TRAINER-BOUND: images come as fast as the trainer can take them.",
    }[sides[0]]


def _figures(ordered: Sequence[Capacity]) -> str:
    """The capacities, the smallest first."""
    first, *others = ordered
    verb = "allow" if first.side == PRODUCERS else "allows"
    said = f"Alone, the {first.side} {verb} {per_s(first.images_per_s)} ({SYMBOLS[first.side]}), the least of all"
    rest = (f"the {part.side} {number(part.images_per_s)} ({SYMBOLS[part.side]})" for part in others)
    return f"{said}; {', '.join(rest)}."


def _margin(ordered: Sequence[Capacity], is_balanced: bool) -> tuple[float, str]:
    """How sure the order of the capacities is, given how each of them varies: normal errors of their logarithms."""
    first, second = ordered[0], ordered[1]
    ratio = second.images_per_s / first.images_per_s
    spread = f"their rates are known to {_known(first)} and {_known(second)}"
    if is_balanced:
        error, limit = math.hypot(first.error, second.error), math.log(BALANCED_RATIO)
        sure = _normal((limit - math.log(ratio)) / error) - _normal((-limit - math.log(ratio)) / error)
        return sure, f"the {first.side} and the {second.side} differ by {ratio - 1:.0%}; {spread}"
    orders = [
        _normal(math.log(part.images_per_s / first.images_per_s) / math.hypot(first.error, part.error))
        for part in ordered[1:]
    ]
    return math.prod(orders), f"the next capacity, the {_possessive(second.side)}, is {times(ratio)} as large; {spread}"


def _known(part: Capacity) -> str:
    assumed = "" if part.half_width is not None else " (assumed: there are too few parts to tell)"
    return f"±{SPAN * part.error:.0%}{assumed}"


def _nearness(share: float) -> tuple[float, str]:
    """How well the run agrees with the smallest capacity."""
    reason = f"all together reached {share:.0%} of the smallest capacity"
    if share < SHORT:
        return max(0.4, share / SHORT), f"{reason}, clearly less than all of it"
    if share > EXCEEDING:
        return max(0.4, EXCEEDING / share), f"{reason}: alone it was measured too low"
    return 1.0, reason


def _support(seen: InRun, agrees: bool) -> tuple[float, str]:
    """How the run's own figures stand to the ablations."""
    if not agrees:
        return 0.4, f"the run points elsewhere, at the {_either(seen.sides)}"
    if len(seen.sides) == len(SYMBOLS):
        return 0.9, "the run's waits and queues point nowhere"
    return 1.0, f"the run's waits and queues point at the {_either(seen.sides)} too"


def _unmeasured(parts: Sequence[Capacity]) -> list[tuple[float, str]]:
    known = {part.side for part in parts}
    return [(0.8, f"the {side} alone was not measured") for side in SYMBOLS if side not in known]


def _shortfall(measurements: Measurements, reached: Capacity, share: float) -> str | None:
    """What is to be said of a run that stays below what each of its parts can do."""
    if share >= SHORT:
        return None
    said = f"The run stays {1 - share:.0%} below what every part could do alone"
    if reached.cores_busy is not None and reached.cores_busy >= BUSY:
        cores = f"the {measurements.cores} cores" if measurements.cores > 1 else "the one core"
        busy = f"{'were' if measurements.cores > 1 else 'was'} {reached.cores_busy:.0%} busy"
        is_shared = any(each.is_local for each in measurements.producers)
        why = "producers and trainer share them" if is_shared else "the rank's threads wait for each other"
        return f"{said}: {cores} of the trainer's machine {busy}, and {why}."
    return f"{said}: its parts hold each other up in a way that none of them shows alone."


def _excess(first: Capacity, share: float) -> tuple[str, ...]:
    """What is to be said of a run that went faster than one of its parts is said to be able to."""
    if share <= EXCEEDING:
        return ()
    said = f"All together went {times(share)} as fast as the {first.side} alone: {SYMBOLS[first.side]} was measured too"
    return (f"{said} low, and what rests on it does not hold.",)


def _contradiction(sides: Sequence[str], seen: InRun) -> str:
    return (
        f"Alone, the {_both(sides)} had the smallest capacity; in the run, waits and queues point at the "
        f"{_either(seen.sides)}. Both cannot be: take this verdict with care."
    )


def _possessive(side: str) -> str:
    return f"{side}'" if side.endswith("s") else f"{side}'s"


def _both(sides: Sequence[str]) -> str:
    return " and the ".join(sides)


def _either(sides: Set[str]) -> str:
    return " or the ".join(side for side in SYMBOLS if side in sides)


def _normal(z: float) -> float:
    """The standard normal distribution function."""
    return 0.5 * (1 + math.erf(z / math.sqrt(2)))
