"""A rank's socket as a test turns it: what it hears and what it refuses."""

import time
from collections import Counter
from collections.abc import Callable

from penstock.protocol.sockets import RankSocket

WAIT_S = 20.0


class Door:
    """What a rank hears and refuses, turned by the test."""

    def __init__(self, rank: RankSocket) -> None:
        self.rank = rank
        self.heard: Counter[bytes] = Counter()
        self.words: Counter[str] = Counter()
        self.lines: list[str] = []

    def turn(self) -> None:
        """Hear what has come."""
        self.rank.wait(10)
        now = time.monotonic()  # all that comes in one turn came at one moment
        for peer, frames in self.rank.received():
            self.heard[peer] += 1
            self.take(peer, bytes(frames[0]), now)
        self.look(now)
        for refusal in self.rank.refusals():
            self.words[refusal.word] += 1
            self.lines += [refusal.line] if refusal.line else []

    def take(self, peer: bytes, said: bytes, now: float) -> None:
        """Answer a message; this one does not."""

    def look(self, now: float) -> None:
        """Look after those who are connected; this one does not."""

    def until(self, is_done: Callable[[], bool]) -> None:
        """Turn it until that is so; fails after `WAIT_S`."""
        deadline = time.monotonic() + WAIT_S
        while not is_done():
            assert time.monotonic() < deadline, (self.heard, self.words, self.lines)
            self.turn()
