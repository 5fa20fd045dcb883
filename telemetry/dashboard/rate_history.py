"""How the rates of a run have gone since its beginning, in bounded memory: the longer the run, the coarser."""

from collections.abc import Sequence
from dataclasses import dataclass

MAX_POINTS = 360
"""Points that are kept; a page is not much wider."""


@dataclass(frozen=True, slots=True)
class RatePoint:
    """The rates at one moment, or their means over a while."""

    seconds: float
    """Since the trainer was started."""
    made_per_s: float
    trained_per_s: float
    data_wait: float
    """0 to 1."""


class RateHistory:
    """Keeps points that come at equal distances. When there are too many, each pair becomes its mean.

    Args:
        max_points: that are kept; even.
    """

    def __init__(self, max_points: int = MAX_POINTS) -> None:
        self._max_points = max_points
        self._points: list[RatePoint] = []
        self._pending: list[RatePoint] = []
        self._per_point = 1

    def add(self, point: RatePoint) -> None:
        """Take note of the next moment."""
        self._pending.append(point)
        if len(self._pending) < self._per_point:
            return
        self._points.append(_mean(self._pending))
        self._pending.clear()
        if len(self._points) >= self._max_points:
            self._points = [_mean(self._points[i : i + 2]) for i in range(0, len(self._points), 2)]
            self._per_point *= 2

    @property
    def points(self) -> Sequence[RatePoint]:
        """The oldest first; the last stands for the newest moments, however few."""
        return [*self._points, _mean(self._pending)] if self._pending else list(self._points)


def _mean(points: Sequence[RatePoint]) -> RatePoint:
    count = len(points)
    return RatePoint(
        points[-1].seconds,
        sum(point.made_per_s for point in points) / count,
        sum(point.trained_per_s for point in points) / count,
        sum(point.data_wait for point in points) / count,
    )
