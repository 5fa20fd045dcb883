"""Figures into what prometheus-client serves: read when somebody asks, so that nothing is counted twice on the way.

A process keeps its own figures anyway. What serves them looks at them when they are scraped, and the work that is
measured pays nothing for it.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from penstock.telemetry.metric_table import Metric
from penstock.telemetry.recorder import BUCKETS_S, Taken

Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily

BOUNDS = (*map(str, BUCKETS_S), "+Inf")
"""Upper bounds of a histogram's buckets, as Prometheus writes them."""

_KEPT_LOOKS = 60
"""Looks that are remembered within a window, however often somebody looks."""

AGES = "sample_age"
"""The recorder's name of what is an age and no work, and has a histogram of its own."""


class Scrape:
    """The values of a table's metrics at one moment. One that is not said is left out.

    Args:
        table: all metrics that there can be.
        own: labels that each of them has, with their values.
    """

    def __init__(self, table: Sequence[Metric], own: Mapping[str, str]) -> None:
        self._own = tuple(own.values())
        self._labels = {metric.name: metric.labels for metric in table}
        self._families = {metric.name: _family(metric, tuple(own)) for metric in table}

    @property
    def families(self) -> Sequence[Family]:
        """All of them, in the table's order."""
        return tuple(self._families.values())

    def say(self, name: str, value: float | None, **labels: str) -> None:
        """The value of a counter or a gauge; None says nothing. Raises KeyError where the table has no such metric."""
        family = self._families[name]
        if isinstance(family, HistogramMetricFamily):
            raise TypeError(f"{name} is a histogram")
        values = self._values(name, labels)
        if value is not None:
            family.add_metric(values, value)

    def say_each(self, name: str, label: str, values: Mapping[str, float]) -> None:
        """The values of a counter or a gauge that has one label beside its own."""
        for value_of, value in values.items():
            self.say(name, value, **{label: value_of})

    def durations(self, name: str, taken: Taken, **labels: str) -> None:
        """A histogram of seconds."""
        family = self._families[name]
        if not isinstance(family, HistogramMetricFamily):
            raise TypeError(f"{name} is no histogram")
        family.add_metric(
            self._values(name, labels), list(zip(BOUNDS, accumulate(taken.buckets), strict=True)), taken.seconds
        )

    def stages(self, name: str, taken: Mapping[str, Taken]) -> None:
        """A histogram for each stage that a recorder has noted."""
        for stage, durations in taken.items():
            if stage != AGES:
                self.durations(name, durations, stage=stage)

    def _values(self, name: str, labels: Mapping[str, str]) -> tuple[str, ...]:
        return (*self._own, *(labels[label] for label in self._labels[name]))


@dataclass(frozen=True, eq=False)
class Reading(Collector):
    """What a registry collects: a table, and who fills it in.

    Args:
        table: all metrics that there can be.
        own: labels that each of them has, with their values.
        fill: says the values, in the thread that serves them.
    """

    table: Sequence[Metric]
    own: Mapping[str, str]
    fill: Callable[[Scrape], None]

    def describe(self) -> Sequence[Family]:
        """The metrics without values, so that nothing is looked at before somebody asks."""
        return Scrape(self.table, self.own).families

    def collect(self) -> Sequence[Family]:
        """The metrics with their values now."""
        scrape = Scrape(self.table, self.own)
        self.fill(scrape)
        return scrape.families


class RecentRate:
    """How fast a count has grown of late, from looks at it that come when they come. For one thread.

    Args:
        window_s: what is of late: the rate is since the newest look that is at least so old, else since the beginning.
        now: the time, monotonic.
    """

    def __init__(self, window_s: float = 60.0, now: float | None = None) -> None:
        self._window_s = window_s
        self._looks: deque[tuple[float, float]] = deque([(time.monotonic() if now is None else now, 0.0)])

    def per_s(self, count: float, now: float | None = None) -> float:
        """The rate now that the count is `count`; 0 where no time has passed."""
        now = time.monotonic() if now is None else now
        while len(self._looks) > 1 and self._looks[1][0] <= now - self._window_s:
            self._looks.popleft()
        if now - self._looks[-1][0] >= self._window_s / _KEPT_LOOKS:
            self._looks.append((now, count))
        since, before = self._looks[0]
        return (count - before) / (now - since) if now > since else 0.0


def penstock_version() -> str:
    """The version that is installed; `unknown` where none is. It reads the disk: once is enough."""
    try:
        return version("penstock")
    except PackageNotFoundError:
        return "unknown"


def _family(metric: Metric, own: tuple[str, ...]) -> Family:
    labels = (*own, *metric.labels)
    match metric.type:
        case "counter":
            return CounterMetricFamily(metric.name, metric.help, labels=labels)
        case "gauge":
            return GaugeMetricFamily(metric.name, metric.help, labels=labels)
        case "histogram":
            return HistogramMetricFamily(metric.name, metric.help, labels=labels)
