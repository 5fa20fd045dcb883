"""Network cards, connections, and the CPU of whoever hears: what delays a message."""

from collections.abc import Callable
from dataclasses import dataclass

from simulation.timeline import Timeline


class Host:
    """One process: its network card, each way, and the one core that hears and says its messages."""

    __slots__ = ("bytes_per_s", "cpu_s", "hears_at", "in_at", "num_bytes", "num_messages", "out_at")

    def __init__(self, bytes_per_s: float) -> None:
        self.bytes_per_s = bytes_per_s
        self.in_at = self.out_at = self.hears_at = 0.0
        """Until when the card is busy each way, and until when the core is."""
        self.cpu_s = 0.0
        self.num_messages = 0
        """In and out."""
        self.num_bytes = 0

    def work(self, now: float, seconds: float) -> float:
        """Keep the core busy; returns when it is done."""
        self.hears_at = max(now, self.hears_at) + seconds
        self.cpu_s += seconds
        return self.hears_at


@dataclass(slots=True, eq=False)
class Line:
    """One connection of a producer with a rank, and the name that the rank has for it."""

    identity: bytes
    rank: int
    closed: bool = False
    """The rank's socket knows that nobody is behind it."""
    cut_until: float = 0.0
    """What is sent before arrives then, as TCP repeats it."""


class Network:
    """Carries messages between hosts.

    Args:
        timeline: the clock.
        latency_s: of every message.
    """

    def __init__(self, timeline: Timeline, latency_s: float) -> None:
        self._timeline = timeline
        self._latency_s = latency_s

    def send(
        self,
        line: Line,
        source: Host,
        target: Host,
        nbytes: int,
        hear_s: float,
        hear: Callable[..., None],
        *args: object,
    ) -> None:
        """Let `hear` be called once the message has travelled and the target's core has spent `hear_s` on it."""
        now = self._timeline.now
        if line.cut_until > now:
            self._timeline.at(line.cut_until, self.send, line, source, target, nbytes, hear_s, hear, *args)
            return
        source.num_messages += 1
        target.num_messages += 1
        source.num_bytes += nbytes
        target.num_bytes += nbytes
        source.out_at = (source.out_at if source.out_at > now else now) + nbytes / source.bytes_per_s
        arrives = source.out_at + self._latency_s
        target.in_at = (target.in_at if target.in_at > arrives else arrives) + nbytes / target.bytes_per_s
        self._timeline.at(target.work(target.in_at, hear_s), hear, *args)
