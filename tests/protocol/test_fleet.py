"""Who gets the next ticket, and what a rank can hope for."""

from dataclasses import replace

import pytest

from penstock.protocol.durations import Durations
from penstock.protocol.fleet import FleetState, Peer, PeerState, choose, state_of
from tests.protocol.desk import ANN, BOB, CAT
from tests.protocol.samples import MANIFEST, NBYTES, a_ticket

GROUPS_PER_BATCH = 4  # 8 images a batch, 2 a group


def _peer(num_held: int = 0, *, batch_s: float | None = None, groups: int = 8, batch_images: int = 8) -> Peer:
    manifest = replace(MANIFEST, batch_images=batch_images)
    peer = Peer("ann", manifest, 0.0, 0, PeerState.READY, credit_groups=groups, credit_bytes=10**6)
    for index in range(100, 100 + num_held):
        peer.hold(a_ticket(index))
    if batch_s is not None:
        peer.service.add(batch_s)
    return peer


def _choose(*peers: Peer, avoid: set[bytes] | None = None) -> bytes | None:
    fleet = Durations()
    for peer in peers:
        if len(peer.service):
            fleet.add(peer.service.quantile(0.5))
    return choose(zip((ANN, BOB, CAT), peers, strict=False), a_ticket(0), avoid or set(), fleet)


def test_of_two_idle_producers_the_faster_is_chosen() -> None:
    assert _choose(_peer(batch_s=3.0), _peer(batch_s=1.0)) == BOB


def test_a_fast_producer_with_work_waiting_is_chosen_while_it_would_be_done_first() -> None:
    slow = _peer(batch_s=10.0, groups=100)
    for num_held in range(36):  # nine whole batches of 1 s are nine seconds
        assert _choose(slow, _peer(num_held, batch_s=1.0, groups=100)) == BOB
    assert _choose(slow, _peer(40, batch_s=1.0, groups=100)) == ANN, "ten batches before it, eleven seconds"


def test_a_batch_that_has_begun_to_fill_is_filled_before_another_begins() -> None:
    assert _choose(_peer(), _peer(1)) == BOB
    assert _choose(_peer(), _peer(3)) == BOB
    assert _choose(_peer(), _peer(4)) == ANN


def test_a_producer_of_larger_batches_holds_more_before_its_second() -> None:
    assert _choose(_peer(4), _peer(4, batch_images=16)) == BOB


@pytest.mark.parametrize("state", [state for state in PeerState if state is not PeerState.READY])
def test_only_a_ready_producer_is_chosen(state: PeerState) -> None:
    peer = _peer()
    peer.state = state
    assert _choose(peer) is None


def test_credit_bounds_groups_and_bytes() -> None:
    assert _choose(_peer(3, groups=3)) is None
    peer = _peer(2)
    peer.credit_bytes = 3 * NBYTES - 1
    assert _choose(peer) is None
    peer.credit_bytes = 3 * NBYTES
    assert _choose(peer) == ANN


def test_who_failed_the_ticket_is_chosen_only_where_nobody_else_is_there() -> None:
    assert _choose(_peer(batch_s=1.0), _peer(7, batch_s=100.0), avoid={ANN}) == BOB
    assert _choose(_peer(), avoid={ANN}) == ANN, "a fleet of one tries again"


@pytest.mark.parametrize(
    ("states", "any_came", "expected"),
    [
        ([], False, FleetState.WAITING),
        ([], True, FleetState.GONE),
        ([PeerState.WARMING], True, FleetState.WARMING),
        ([PeerState.WARMING, PeerState.SUSPECT], True, FleetState.WARMING),
        ([PeerState.SUSPECT, PeerState.READY], True, FleetState.SERVING),
        ([PeerState.WARMING, PeerState.READY], True, FleetState.SERVING),
        ([PeerState.SUSPECT], True, FleetState.SILENT),
        ([PeerState.STALLED, PeerState.DRAINING], True, FleetState.SILENT),
    ],
)
def test_the_fleet_is_what_its_best_producer_is(states: list[PeerState], any_came: bool, expected: FleetState) -> None:
    peers = [Peer("ann", MANIFEST, 0.0, 0, state) for state in states]
    assert state_of(peers, any_came=any_came) is expected
