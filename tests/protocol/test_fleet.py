"""Who gets the next ticket, and what a rank can hope for."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.protocol.chance import draw
from penstock.protocol.durations import Durations
from penstock.protocol.fleet import FleetState, Peer, PeerState, Takers, choose, state_of
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


# --- many ranks and many producers ------------------------------------------------------------------------------------


def _fleet(rank: int, paces_s: Sequence[float]) -> list[tuple[bytes, Peer]]:
    """The producers as `rank` sees them, each with the time that its batches take."""
    peers = []
    for number, batch_s in enumerate(paces_s):
        peer = _peer(batch_s=batch_s)
        peer.lot = draw(rank, f"producer-{number}")
        peers.append((b"%d" % number, peer))
    return peers


def _hand_out(peers: list[tuple[bytes, Peer]], num_tickets: int, sharers: int) -> list[bytes]:
    """Who gets so many tickets, one after another."""
    holders = []
    by_identity = dict(peers)
    for index in range(num_tickets):
        holder = choose(peers, a_ticket(index), set(), Durations(), sharers=sharers)
        assert holder is not None
        by_identity[holder].hold(a_ticket(index))
        holders.append(holder)
    return holders


def test_many_ranks_load_producers_by_their_pace_and_not_all_the_same() -> None:
    """Twenty of 1 s a batch and twenty of 2 s: the former should have twice as much, and none nothing."""
    num_ranks, paces_s = 64, [1.0] * 20 + [2.0] * 20
    held: Counter[bytes] = Counter()
    for rank in range(num_ranks):
        held.update(_hand_out(_fleet(rank, paces_s), 12, sharers=num_ranks))
    loads = [held[b"%d" % number] for number in range(40)]
    assert sum(loads[:20]) / sum(loads[20:]) == pytest.approx(2.0, rel=0.3)
    # 768 tickets on 40 producers: 25.6 and 12.8 each; a herd would put 64 on each of twelve.
    assert min(loads) >= 3
    assert max(loads) <= 45


def test_where_ranks_share_a_batch_each_adds_its_share() -> None:
    held = Counter(_hand_out(_fleet(0, [1.0] * 6), 8, sharers=2))
    assert sorted(held.values()) == [2, 2, 2, 2], "of four groups a batch two are another rank's"
    held = Counter(_hand_out(_fleet(0, [1.0] * 6), 8, sharers=1))
    assert sorted(held.values()) == [4, 4]


@settings(max_examples=200, deadline=None)
@given(
    peers=st.lists(
        st.tuples(st.integers(0, 7), st.sampled_from([None, 0.5, 1.0, 3.0]), st.integers(1, 9), st.booleans()),
        min_size=1,
        max_size=7,
    ),
    num_tickets=st.integers(1, 30),
    sharers=st.integers(1, 5),
)
def test_takers_are_who_would_be_chosen_ticket_by_ticket(
    peers: list[tuple[int, float | None, int, bool]], num_tickets: int, sharers: int
) -> None:
    def fleet() -> list[tuple[bytes, Peer]]:
        made = []
        for number, (held, batch_s, groups, doubtful) in enumerate(peers):
            peer = _peer(min(held, groups), batch_s=batch_s, groups=groups)
            peer.refusals = 99 * doubtful
            peer.lot = draw(number)
            made.append((b"%d" % number, peer))
        return made

    usual = Durations()
    usual.add(2.0)
    one_by_one, together = fleet(), fleet()
    takers = Takers(together, a_ticket(0), usual, sharers)
    for index in range(num_tickets):
        chosen = choose(one_by_one, a_ticket(index), set(), usual, sharers=sharers)
        assert takers.first == chosen
        if chosen is None:
            break
        dict(one_by_one)[chosen].hold(a_ticket(index))
        dict(together)[chosen].hold(a_ticket(index))
        takers.given()
