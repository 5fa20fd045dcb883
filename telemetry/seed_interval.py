"""The mean of a figure over several seeds and how far it can be trusted: Student's t interval, 95%.

The seeds of one setting are few, so the normal distribution's 1.96 would claim too much: with three seeds the factor is
4.30, with five 2.78.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class SeedInterval:
    """A mean over seeds."""

    mean: float
    half_width: float | None
    """Half of the 95% interval; None for one seed, which says nothing of the spread."""
    num_seeds: int

    @property
    def bounds(self) -> list[float] | None:
        """Where the interval begins and ends; None for one seed."""
        return None if self.half_width is None else [self.mean - self.half_width, self.mean + self.half_width]


def seed_interval(values: Sequence[float]) -> SeedInterval:
    """Mean and interval of one value a seed. Raises ValueError where there is none."""
    if not values:
        raise ValueError("values must not be empty")
    count = len(values)
    if count == 1:
        return SeedInterval(values[0], None, 1)
    half_width = t_quantile(count - 1) * statistics.stdev(values) / math.sqrt(count)
    return SeedInterval(statistics.fmean(values), half_width, count)


def t_quantile(degrees: int) -> float:
    """The t that a Student variable of `degrees` >= 1 degrees of freedom exceeds in size in 5% of all cases."""
    low, high = 0.0, 20.0  # 12.7 for one degree
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _central_probability(middle, degrees) < CONFIDENCE else (low, middle)
    return (low + high) / 2


def _central_probability(t: float, degrees: int) -> float:
    """P(|T| <= t): Abramowitz and Stegun, 26.7.3 for odd degrees and 26.7.4 for even ones."""
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(2 + odd, degrees, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
