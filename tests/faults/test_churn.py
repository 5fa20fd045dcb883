"""Producers that come and go: two hundred times, and nothing grows."""

import signal

import pytest

from tests.faults.conftest import Report
from tests.faults.hostile import Hostile
from tests.faults.programs import LightRank
from tests.faults.scene import Scene

KIB = 1 << 10


def settled(rank: LightRank) -> dict[str, int]:
    """Memory, descriptors and credits when only the steady producer is there."""
    rank.until(lambda: rank.steps[-1]["peers"] == 1, "only the steady producer is there")
    rank.until_groups(len(rank.groups) + 16)
    last = rank.steps[-1]
    return {name: last[name] for name in ("fds", "outstanding")} | {"private_bytes": rank.private_bytes()}


def flat(rank: LightRank, after_50: dict[str, int], after_200: dict[str, int], report: Report) -> None:
    """Nothing has grown from the 50th to the 200th."""
    seen = rank.finish()
    grown = after_200["private_bytes"] - after_50["private_bytes"]
    report.saw(
        f"{seen}; memory {grown / KIB:+,.0f} KiB, descriptors {after_200['fds'] - after_50['fds']:+d}, "
        f"{after_200['outstanding']} tickets out"
    )
    assert after_200["fds"] == after_50["fds"]
    assert after_200["outstanding"] <= rank.plan.window_groups
    assert grown < 2048 * KIB


def come_and_go(scene: Scene, number: int) -> None:
    """One short life: every third answers a ticket, every third begins one, every third vanishes with it."""
    with Hostile(scene.endpoint, f"guest-{number}") as guest:
        guest.join(credit_groups=2)
        ticket, *_ = guest.tickets(1)
        if number % 3 == 0:
            guest.answer(ticket)


@pytest.mark.fault("200 joins and leaves", expected="memory, descriptors and credits are flat from the 50th on")
def test_two_hundred_guests_come_and_go(scene: Scene, report: Report) -> None:
    rank = scene.rank(order="ticket", max_attempts=1000, lease_s=2.0)
    scene.producer("steady", batch_s=0.02)
    rank.until_made_by("steady")
    for number in range(50):
        come_and_go(scene, number)
    after_50 = settled(rank)
    for number in range(50, 200):
        come_and_go(scene, number)
    flat(rank, after_50, settled(rank), report)


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.fault("200 processes join and leave", expected="the same with real processes, half of them killed")
def test_two_hundred_processes_come_and_go(scene: Scene, report: Report) -> None:
    rank = scene.rank(order="arrival", max_attempts=1000)
    steady = scene.producer("steady", batch_s=0.05)
    rank.until_made_by("steady")
    after_50: dict[str, int] = {}
    for first in range(0, 200, 4):
        guests = [scene.producer(f"guest-{number}", batch_s=0.02) for number in range(first, first + 4)]
        for number, guest in enumerate(guests):
            guest.until_begun()
            guest.send(signal.SIGKILL if number % 2 else signal.SIGTERM)
        for guest in guests:
            guest.end()
        if first == 48:
            after_50 = settled(rank)
    after_200 = settled(rank)
    assert steady.alive
    flat(rank, after_50, after_200, report)
