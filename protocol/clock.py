"""How far another machine's clock is from this one's, as NTP measures it.

A question and its answer give four times, of which each clock shows two; from them follow the difference and how long
the way there and back took (RFC 5905, section 8). The error is at most half of that, so of the last answers the one
that was quickest counts (the clock filter of section 10). https://www.rfc-editor.org/rfc/rfc5905
"""

from collections import deque

_KEEP = 8
"""Answers that are remembered, as in RFC 5905: clocks drift, so that old ones grow wrong."""


class ClockDifference:
    """Another clock minus this one, ns."""

    def __init__(self) -> None:
        self._answers: deque[tuple[int, int]] = deque(maxlen=_KEEP)

    def hear(self, asked_ns: int, heard_ns: int, answered_ns: int, now_ns: int) -> None:
        """One answer has come.

        Args:
            asked_ns: this clock when the question was sent.
            heard_ns: the other when it came there.
            answered_ns: the other when the answer was sent.
            now_ns: this clock.
        """
        round_trip_ns = (now_ns - asked_ns) - (answered_ns - heard_ns)
        if now_ns >= asked_ns and answered_ns >= heard_ns and round_trip_ns >= 0:  # else a clock lies
            self._answers.append((round_trip_ns, ((heard_ns - asked_ns) + (answered_ns - now_ns)) // 2))

    @property
    def best(self) -> tuple[int, int] | None:
        """The difference and how wrong it may be; None before the first answer."""
        if not self._answers:
            return None
        round_trip_ns, difference_ns = min(self._answers)
        return difference_ns, round_trip_ns // 2
