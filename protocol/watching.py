"""Messages that change nothing: what a producer tells of its work, whose clock shows what, and events of a trace.

A rank that loses them, or that hears nonsense in them, hands out tickets as before.
"""

from dataclasses import dataclass
from typing import ClassVar, Final

from penstock.protocol.limits import MAX_INT, MAX_NAME_LENGTH, MAX_TRACE_EVENTS, MAX_TRACE_KINDS
from penstock.protocol.rules import require, require_name

EVENT_WIDTH: Final = 5
"""Integers of one event of a TRACE."""
_NUM_FLOWS = 4
_MOST: Final = 1e30
"""Seconds or floating point operations that a STATUS may tell of: whoever adds such figures up, or divides them, gets a
finite number whatever a producer says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What a producer has done since it was started, said with every HEARTBEAT; the rank answers CLOCK."""

    kind: ClassVar[str] = "STATUS"
    clock_ns: int = 0
    """The producer's monotonic clock when it is sent."""
    images: int = 0
    """Images made, for all ranks."""
    busy_s: float = 0.0
    """Time in which its engine worked on what it has finished."""
    unfinished_s: float = 0.0
    """And on what it has not finished yet: the batch that is being made, so far."""
    flops: float = 0.0
    """Floating point operations that they took; 0 where that is not known."""
    matrix_flops_per_s: float = 0.0
    """What large matrix products reach on its device; 0 where that is not known."""

    def __post_init__(self) -> None:
        for name in ("clock_ns", "images"):
            value = getattr(self, name)
            require(value >= 0, f"{name} must be >= 0", value)
        for name in ("busy_s", "unfinished_s", "flops", "matrix_flops_per_s"):
            value = getattr(self, name)
            require(0 <= value <= _MOST, f"{name} must be in [0, {_MOST:g}]", value)
        rate = self.matrix_flops_per_s
        require(not 0 < rate < 1, "matrix_flops_per_s must be 0 or >= 1", rate)

    @property
    def worked_s(self) -> float:
        """Time in which its engine worked: it grows while a batch is made."""
        return self.busy_s + self.unfinished_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """What a rank's clock showed about a STATUS: from it the producer learns how far their clocks are apart."""

    kind: ClassVar[str] = "CLOCK"
    echo_ns: int
    """`clock_ns` of the STATUS that is answered."""
    heard_ns: int
    """The rank's monotonic clock when that STATUS came."""
    sent_ns: int
    """And when this is sent."""

    def __post_init__(self) -> None:
        for name in ("echo_ns", "heard_ns", "sent_ns"):
            value = getattr(self, name)
            require(value >= 0, f"{name} must be >= 0", value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Events of a producer, for a rank whose WELCOME says that it traces. Times are on that rank's clock."""

    kind: ClassVar[str] = "TRACE"
    uncertainty_ns: int
    """How wrong the times may be: half the round trip that the clocks were compared by."""
    stages: tuple[str, ...]
    """What each kind of event is called."""
    threads: tuple[str, ...]
    """Which thread each kind is of."""
    flows: tuple[int, ...]
    """Where each kind stands on a ticket's way: 0 nowhere, 1 its beginning, 2 in between, 3 its end."""
    events: tuple[int, ...]
    """Five integers an event: its kind's place in the lists above, when it began and how long it lasted (ns), index
    and attempt of its ticket (-1 and 0 where it is about none)."""

    def __post_init__(self) -> None:
        num_kinds, width = len(self.stages), EVENT_WIDTH
        require(self.uncertainty_ns >= 0, "uncertainty_ns must be >= 0", self.uncertainty_ns)
        require(num_kinds <= MAX_TRACE_KINDS, f"stages must be at most {MAX_TRACE_KINDS}", num_kinds)
        for name in ("threads", "flows"):
            count = len(getattr(self, name))
            require(count == num_kinds, f"{name} must be as many as stages ({num_kinds})", count)
        for name in ("stages", "threads"):
            for value in getattr(self, name):
                require_name(name, value, MAX_NAME_LENGTH)
        for flow in self.flows:
            require(0 <= flow < _NUM_FLOWS, f"flows must be in [0, {_NUM_FLOWS})", flow)
        require(len(self.events) % width == 0, f"events must be {width} integers each", len(self.events))
        count = len(self.events) // width
        require(count <= MAX_TRACE_EVENTS, f"events must be at most {MAX_TRACE_EVENTS}", count)
        if count:
            self._check_events()

    def _check_events(self) -> None:
        kinds, begins, lasts, tickets, attempts = (self.events[place::EVENT_WIDTH] for place in range(EVENT_WIDTH))
        num_kinds = len(self.stages)
        require(min(kinds) >= 0 and max(kinds) < num_kinds, f"kinds must be in [0, {num_kinds})", (*kinds[:4],))
        for name, values, least in (
            ("times", begins, 0),
            ("durations", lasts, 0),
            ("tickets", tickets, -1),
            ("attempts", attempts, 0),
        ):
            require(min(values) >= least, f"{name} of events must be >= {least}", min(values))
        latest = max(begins) + max(lasts)
        require(max(latest, *tickets, *attempts) <= MAX_INT, f"what events name must be at most {MAX_INT}", latest)
