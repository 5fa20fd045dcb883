"""A fleet in view: producers that leave and come back, many at a time and before they have told anything."""

from dataclasses import replace

import pytest

from penstock.consumer.watching.fleet_views import FleetViews
from penstock.protocol.fleet import PeerLook, PeerState
from penstock.protocol.watching import Status
from penstock.telemetry.rates import Rates
from penstock.telemetry.run_view import ProducerView
from tests.protocol.samples import MANIFEST


class Fleet:
    """A fleet that the test makes up, second by second."""

    def __init__(self) -> None:
        self._views, self._rates, self.now = FleetViews(), Rates(), 0.0

    def look(self, *peers: PeerLook) -> dict[str, ProducerView]:
        """A second later."""
        self.now += 1.0
        self._views.look(peers, self.now)
        self._rates.add(self.now, self._views.counters)
        return {view.name: view for view in self._views.views(self._rates, self.now)}


def peer(name: str, images: int, busy_s: float | None = None) -> PeerLook:
    return PeerLook(
        name=name,
        state=PeerState.READY,
        manifest=MANIFEST,
        credit_groups=4,
        held=0,
        groups=images,
        images=images,
        wire_bytes=images,
        silent_s=0.0,
        service_s=(),
        status=None if busy_s is None else Status(busy_s=busy_s, flops=0.0, matrix_flops_per_s=0.0),
    )


def test_a_producer_that_is_back_has_told_nothing_for_a_moment_and_is_seen_all_the_same() -> None:
    fleet = Fleet()
    for second in range(8):
        fleet.look(peer("ann", 10 * second, 0.5 * second))
    fleet.look()
    assert fleet.look(peer("ann", 0))["ann"].busy_share is None
    fleet.look(peer("ann", 10, 0.0))
    assert fleet.look(peer("ann", 20, 0.5))["ann"].busy_share == pytest.approx(0.5)


def test_a_whole_fleet_that_is_lost_and_comes_back_is_seen_whole() -> None:
    """More than are kept in view while they are gone."""
    fleet = Fleet()
    here = [peer(f"gpu-{number}", 100) for number in range(40)]
    fleet.look(*here)
    assert len(fleet.look(*here)) == 40
    assert len(fleet.look()) == 16
    here = [replace(one, images=0) for one in here]
    fleet.look(*here)
    back = fleet.look(*[replace(one, images=6) for one in here])
    assert len(back) == 40
    assert {view.images_per_s >= 0 for view in back.values()} == {True}
    assert back["gpu-0"].images_per_s == pytest.approx(6)  # it was forgotten, and counts from nothing
