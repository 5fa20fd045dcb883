"""How fast the run would go with other numbers of producers, what each number costs, and how many are enough.

With n producers, each making p images/s as those at hand do on average, the run should go at min(e·p·n, e·W, H, T),
times what it reached of that bound as measured: the prediction rests on the ablations, and the run itself corrects what
they cannot see. W, H and T are taken to stay as they are, and producers to have devices of their own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from penstock.telemetry.profile.capacities import PRODUCERS, TRAINER, Capacity
from penstock.telemetry.profile.measurements import Measurements

MAX_POINTS = 32
"""Numbers of producers that are predicted, at most; the measured one and the knee are always among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedPoint:
    """The run with so many producers."""

    producers: int
    images_per_s: float
    """Trained on."""
    bound: str
    """The side that bounds it then."""
    cost_per_million: float | None
    """Of a million images trained on, all devices together, in the currency of the prices; None without prices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The run against the number of producers."""

    producers: int
    """As measured."""
    images_per_s_each: float
    """e·p: images trained on per second that one producer allows."""
    efficiency: float
    """What the run reached of the smallest capacity, at most 1; every prediction has it as a factor."""
    error: float
    """Standard error of the rates that the producers bound, as a share of them."""
    ceiling_error: float
    """Of those that the ceiling bounds."""
    ceiling: float
    """What the slowest other side allows, images/s."""
    ceiling_side: str
    knee: int
    """Producers from which on more gain nothing."""
    producers_per_rank: float
    """Producer devices for each trainer device, at the knee."""
    cheapest: int | None
    """Producers with which an image costs least; None without prices."""
    points: tuple[PredictedPoint, ...]

    def at(self, producers: int) -> float:
        """Predicted images/s with so many producers."""
        return min(self.images_per_s_each * producers, self.ceiling) * self.efficiency


def predict(measurements: Measurements, parts: Sequence[Capacity], reached: Capacity | None) -> Prediction | None:
    """The prediction; None where the fleet, the trainer or all together was not measured, or the fleet has changed.

    Args:
        measurements: all of them.
        parts: `capacities.capacities` of these.
        reached: `capacities.achieved` of these.
    """
    num, fleet = len(measurements.makers), next((part for part in parts if part.side == PRODUCERS), None)
    others = [part for part in parts if part.side != PRODUCERS]
    smallest = min((part.images_per_s for part in parts), default=0.0)
    is_measured = any(part.side == TRAINER for part in others) and smallest > 0
    has_changed = bool(measurements.left or measurements.joined)
    if fleet is None or reached is None or not num or not is_measured or has_changed:
        return None
    slowest = min(others, key=lambda part: part.images_per_s)
    each = fleet.images_per_s / num
    efficiency = min(1.0, reached.images_per_s / smallest)
    # A hair less, so that a ceiling of three producers' rate is not four because of the last bit.
    knee = max(1, math.ceil(slowest.images_per_s / each - 1e-6))
    points = tuple(_point(measurements, count, each, efficiency, slowest) for count in _numbers(num, knee))
    cheapest = min(points, key=lambda point: point.cost_per_million or math.inf)
    return Prediction(
        producers=num,
        images_per_s_each=each,
        efficiency=efficiency,
        error=math.hypot(fleet.error, reached.error),
        ceiling_error=math.hypot(slowest.error, reached.error),
        ceiling=slowest.images_per_s,
        ceiling_side=slowest.side,
        knee=knee,
        producers_per_rank=knee / measurements.world_size,
        cheapest=cheapest.producers if cheapest.cost_per_million else None,
        points=points,
    )


def cost_per_million(measurements: Measurements, producers: int, images_per_s: float) -> float | None:
    """Of a million images at this rate, all devices together; None where no price is known."""
    prices = measurements.prices
    if not images_per_s or not (prices.producer_per_hour or prices.trainer_per_hour):
        return None
    per_hour = producers * prices.producer_per_hour + measurements.world_size * prices.trainer_per_hour
    return per_hour / 3600 / images_per_s * 1e6


def _point(
    measurements: Measurements, producers: int, each: float, efficiency: float, slowest: Capacity
) -> PredictedPoint:
    images_per_s = min(each * producers, slowest.images_per_s) * efficiency
    return PredictedPoint(
        producers=producers,
        images_per_s=images_per_s,
        bound=slowest.side if each * producers >= slowest.images_per_s else PRODUCERS,
        cost_per_million=cost_per_million(measurements, producers, images_per_s),
    )


def _numbers(measured: int, knee: int) -> list[int]:
    """Numbers of producers worth a prediction: to beyond the knee and to twice the measured one, at equal distances."""
    last = max(2 * measured, math.ceil(1.5 * knee), 4)
    step = math.ceil(last / MAX_POINTS)
    return sorted({1, measured, 2 * measured, knee, *range(step, last + 1, step)})
