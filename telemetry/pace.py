"""Work that is a sleep, for rehearsals of fleets larger than the machine."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Pace:
    """Stretches of work that last as long as they are told, on the average of many.

    A sleep ends late, by a tenth of a millisecond on a quiet machine and by more on a busy one. What one stretch lasts
    too long the next lasts less, so that a pace of 3 ms is one. What passes between the stretches is made up by none.
    """

    def __init__(self) -> None:
        self._overslept_s = 0.0

    @contextmanager
    def lasting(self, seconds: float) -> Iterator[None]:
        """Around what the work really does, which is part of its time."""
        done_at = time.monotonic() + seconds - self._overslept_s
        yield
        time.sleep(max(0.0, done_at - time.monotonic()))
        self._overslept_s = min(max(0.0, time.monotonic() - done_at), seconds)
