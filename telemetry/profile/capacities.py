"""What each part of the way could do alone, in one unit: images trained on per second.

The smallest of e·P, e·W, H and T is what a run should reach (docs/performance.md). A rate's parts of equal length say
how sure it is; two that were measured one after the other differ by a little more than either says, as machines do.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from penstock.telemetry.profile.measurements import Measurements, Rate, Together
from penstock.telemetry.seed_interval import t_quantile

PRODUCERS, WIRE, HOST, TRAINER = "producers", "wire", "host", "trainer"
"""The sides, in the order of the data's way."""
SYMBOLS = {PRODUCERS: "e·P", WIRE: "e·W", HOST: "H", TRAINER: "T"}
SPAN = 1.96
"""Standard errors that half of a 95% interval spans."""
MIN_WINDOWS = 3
"""With fewer parts of a stretch nothing is known of its spread."""
UNKNOWN_SPREAD = 0.1
"""Standard error of a rate of which no spread is known, as a share of it."""
DRIFT = 0.02
"""Standard error of every rate beside what its spread says, as a share of it: phases lie minutes apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """A rate and how sure it is."""

    side: str
    """`producers`, `wire`, `host`, `trainer`, or `together`."""
    images_per_s: float
    """Images trained on per second that it allows."""
    half_width: float | None
    """Half of its 95% interval, images/s; None where its spread is not known."""
    cores_busy: float | None
    """Share of the usable cores of the trainer's machine that was busy meanwhile; None where unknown."""

    @property
    def error(self) -> float:
        """Standard error, as a share of the rate."""
        if self.half_width is None or self.images_per_s <= 0:
            return UNKNOWN_SPREAD
        return math.hypot(self.half_width / self.images_per_s / SPAN, DRIFT)


def capacities(measurements: Measurements) -> tuple[Capacity, ...]:
    """What was measured of e·P, e·W, H and T, in the order of the data's way."""
    e = measurements.reuse
    rates = (
        (PRODUCERS, measurements.fleet, e),
        (WIRE, measurements.wire, e),
        (HOST, measurements.host, 1.0),
        (TRAINER, measurements.trainer, 1.0),
    )
    return tuple(_capacity(side, rate, uses) for side, rate, uses in rates if rate is not None)


def achieved(measurements: Measurements) -> Capacity | None:
    """What all together did; None where that was not measured.

    The smaller of what was trained on and e times what came: what lay in a buffer is no rate.
    """
    together = measurements.together
    if together is None:
        return None
    came = together.arrived.images_per_s * measurements.reuse
    if came < together.trained.images_per_s:
        return _capacity("together", _cores_of(together), measurements.reuse)
    return _capacity("together", together.trained, 1.0)


def _cores_of(together: Together) -> Rate:
    """The rate of what came, with how busy the machine was, which stands beside what was trained on."""
    busy = together.arrived.busy_share
    arrived = together.arrived
    return Rate(
        images=arrived.images,
        seconds=arrived.seconds,
        windows=arrived.windows,
        busy_share=together.trained.busy_share if busy is None else busy,
    )


def _capacity(side: str, rate: Rate, uses: float) -> Capacity:
    half_width = _half_width(rate.windows)
    return Capacity(
        side=side,
        images_per_s=rate.images_per_s * uses,
        half_width=None if half_width is None else half_width * uses,
        cores_busy=rate.busy_share,
    )


def _half_width(windows: Sequence[float]) -> float | None:
    """Half of the 95% interval of the mean of a rate's windows, by Student's t."""
    if len(windows) < MIN_WINDOWS:
        return None
    return t_quantile(len(windows) - 1) * statistics.stdev(windows) / math.sqrt(len(windows))
