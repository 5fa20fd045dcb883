"""How producers are lost: traces of spot pre-emption, made from a few numbers and a seed.

Three kinds of loss, as clouds and schedulers know them:
- `notice`: SIGTERM, and time to drain (most spot instances: 30 s to 2 minutes);
- `kill`: the process dies and its kernel closes the connections (out of memory, a scheduler that does not wait);
- `vanish`: the machine is gone with its network; nobody closes anything, and TCP tells nobody.

`poisson` loses producers one at a time, independently, a third of each kind. `bursts` loses all of a minute's at one
moment, and all vanish: a zone, a rack or a switch. `cut` loses nobody: as many cannot be reached for a while.
"""

import random
from dataclasses import dataclass
from typing import Literal

Trace = Literal["none", "poisson", "bursts", "cut"]
TRACES: tuple[Trace, ...] = ("none", "poisson", "bursts", "cut")
BURST_EVERY_S = 60.0
CUT_S = 20.0
"""Twice a lease: long enough that all tickets behind the cut go to others."""


@dataclass(frozen=True, slots=True)
class Loss:
    """One producer is lost."""

    at: float
    number: int
    """Its place in the fleet."""
    how: Literal["notice", "kill", "vanish", "cut"]


def losses(trace: Trace, producers: int, share_per_minute: float, begin: float, end: float, seed: int) -> list[Loss]:
    """What is lost from `begin` to `end` (s), in the order of time.

    Args:
        trace: of which kind.
        producers: of the fleet.
        share_per_minute: share of the fleet that is lost in a minute.
        begin, end: when it begins and ends.
        seed: the same gives the same trace.
    """
    chance = random.Random(seed)
    if trace == "none" or not share_per_minute:
        return []
    found: list[Loss] = []
    if trace == "poisson":
        now = begin
        while (now := now + chance.expovariate(producers * share_per_minute / 60)) < end:
            found.append(Loss(now, chance.randrange(producers), chance.choice(("notice", "kill", "vanish"))))
        return found
    num_lost = max(1, round(producers * share_per_minute * BURST_EVERY_S / 60))
    at = begin + 5.0
    while at < end:
        for number in chance.sample(range(producers), num_lost):
            found.append(Loss(at, number, "vanish" if trace == "bursts" else "cut"))
        at += BURST_EVERY_S
    return found
