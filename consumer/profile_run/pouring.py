"""How fast images come: from the times at which groups arrived to a rate that does not depend on a window's edges.

A producer sends a batch at once, then nothing for as long as the next takes. Counted between two moments, so many
images too many or too few are a large share of a short measurement. So the rate is the slope of the straight line
through the arrivals, each at the number of images that had come by then (least squares): whole batches at both ends add
no error to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from penstock.telemetry.profile.measurements import Rate

_MAX_WINDOWS = 5
_WINDOW_ARRIVALS = 6
"""Times at which something came, in each window at least: with fewer a window tells of batches and not of the rate."""
_WINDOW_STEPS = 3
"""Likewise of steps, which do not come in batches."""
_BURST_S = 0.005
"""What comes closer together than this counts as having come at one time."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A group that came."""

    at_s: float
    """On the monotonic clock."""
    producer: str
    images: int


def rate_of(arrivals: Sequence[Arrival], since_s: float, until_s: float, nbytes: int = 0) -> Rate:
    """The rate at which images came between two moments.

    Args:
        arrivals: in the order of time; those outside of the stretch do not count.
        since_s, until_s: the stretch, on the monotonic clock.
        nbytes: that travelled for what came in the stretch.

    Returns:
        The images that came, and the seconds that as many take at the slope; where too little came for a line, the
        stretch itself.
    """
    inside = [arrival for arrival in arrivals if since_s < arrival.at_s <= until_s]
    images = sum(arrival.images for arrival in inside)
    at = np.array([arrival.at_s - since_s for arrival in inside])
    slope = _slope(at, np.cumsum([arrival.images for arrival in inside]))
    seconds = images / slope if slope > 0 else until_s - since_s
    return Rate(images=images, seconds=seconds, windows=_windows(inside, since_s, until_s), nbytes=nbytes)


def steady(times_s: Sequence[float], images: int) -> tuple[float, ...]:
    """Images/s in each of several parts of equal length of a stretch in which something recurred.

    Args:
        times_s: when the stretch began, and when each recurrence was done; ascending.
        images: of each recurrence.
    """
    at = np.asarray(times_s, dtype=np.float64)
    return _cut(at, np.arange(len(at)) * float(images), min(_MAX_WINDOWS, (len(at) - 1) // _WINDOW_STEPS))


def added(rates: Sequence[Rate]) -> Rate:
    """The rate of several, at least one, that went on at the same time."""
    images, per_s = sum(rate.images for rate in rates), sum(rate.images_per_s for rate in rates)
    cut_alike = len({len(rate.windows) for rate in rates}) == 1
    return Rate(
        images=images,
        seconds=images / per_s if per_s else max(rate.seconds for rate in rates),
        windows=tuple(map(sum, zip(*(rate.windows for rate in rates), strict=True))) if cut_alike else (),
        nbytes=sum(rate.nbytes for rate in rates),
        busy_share=rates[0].busy_share,
    )


def _slope(at: np.ndarray, so_far: np.ndarray) -> float:
    """Images/s of the line through the arrivals; 0 where there is none."""
    if len(at) < 3 or at[-1] - at[0] <= _BURST_S:
        return 0.0
    centred = at - at.mean()
    return float((centred * so_far).sum() / (centred**2).sum())


def _windows(arrivals: Sequence[Arrival], since_s: float, until_s: float) -> tuple[float, ...]:
    """The rate in each part of the stretch, what came at one time counted as one."""
    times, so_far, images = [since_s], [0.0], 0.0
    for arrival in arrivals:
        images += arrival.images
        if len(times) > 1 and arrival.at_s - times[-1] <= _BURST_S:
            so_far[-1] = images
        else:
            times.append(arrival.at_s)
            so_far.append(images)
    number = min(_MAX_WINDOWS, (len(times) - 1) // _WINDOW_ARRIVALS)
    return _cut(np.array(times), np.array(so_far), number)


def _cut(times: np.ndarray, so_far: np.ndarray, number: int) -> tuple[float, ...]:
    """The rate in each of `number` parts of equal length, between the first and the last time; none below two parts."""
    if number < 2:
        return ()
    edges = np.linspace(times[0], times[-1], number + 1)
    counts = np.diff(np.interp(edges, times, so_far))
    return tuple(float(count) for count in counts / (edges[1] - edges[0]))
