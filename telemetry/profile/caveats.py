"""What was wrong with the conditions of a profile, so that its rates are not what they are taken for."""

import statistics
from collections.abc import Iterator, Sequence

from penstock.telemetry.profile.capacities import PRODUCERS
from penstock.telemetry.profile.in_run import IDLE, filling
from penstock.telemetry.profile.measurements import Measurements
from penstock.telemetry.profile.stragglers import MAX_NAMED

_USED_UP = 0.9
"""Mean share of a window from which on it is taken for full: groups come and are asked for in batches."""


def caveats(measurements: Measurements, sides: Sequence[str] = ()) -> Iterator[str]:
    """A sentence for each; `sides` bound the run."""
    if measurements.left:
        yield f"{_named(measurements.left)} left while it was measured: the rates are of no one fleet."
    if measurements.joined:
        yield f"{_named(measurements.joined)} joined while others were measured: the rates are of no one fleet."
    if (window := narrow_window(measurements, sides)) is not None:
        asked, room = window
        yield (
            f"The producers would hold {room:,} tickets at a time, and stream.window_groups lets {asked:,} be out: "
            "they idle for want of tickets, and e·P is the window's."
        )


def narrow_window(measurements: Measurements, sides: Sequence[str]) -> tuple[int, int] | None:
    """The run's window and what its producers would hold, groups, where producers bound it and that keeps them idle."""
    together = measurements.together
    queues = {queue.name: queue for queue in together.queues} if together else {}
    working = [each.busy_share for each in measurements.makers if each.busy_share is not None]
    if PRODUCERS not in sides or not queues.keys() >= {"tickets", "arrived"} or not working:
        return None
    window, room = queues["arrived"].capacity, queues["tickets"].capacity
    share = filling(queues["tickets"])
    if room <= window or share is None or share * room < _USED_UP * window or statistics.fmean(working) >= IDLE:
        return None
    # Queues are rank 0's; each rank has its share of the window, and credit of its own.
    return window * measurements.world_size, room * measurements.world_size


def _named(names: Sequence[str]) -> str:
    """`Producer ann`, `Producers ann, bob and 3 more`."""
    shown = ", ".join(names[:MAX_NAMED])
    more = f" and {len(names) - MAX_NAMED:,} more" if len(names) > MAX_NAMED else ""
    return f"Producer{'s' if len(names) > 1 else ''} {shown}{more}"
