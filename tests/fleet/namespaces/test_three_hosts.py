"""A trainer of two ranks and two producers, each on a machine of its own, with keys on every link."""

import signal
import time

import pytest

from tests.faults.programs import LightProducer, LightRank, wait_until
from tests.fleet.namespaces.conftest import ANN, BOB, TRAINER, Fleet
from tests.fleet.namespaces.hosts import IPV4, IPV6, Network, address

pytestmark = [pytest.mark.fleet, pytest.mark.long, pytest.mark.timeout(180)]

PORT = 5599
BITS_PER_S = 4_000_000
WORKLOAD = {"side": 64, "num_images": 4}
GROUP_BYTES = 4 * 64 * 64 * 3


def dialled(family: int, rank: int = 0) -> str:
    """Where producers reach a rank."""
    at = address(1, family)
    return f"tcp://[{at}]:{PORT + rank}" if family == IPV6 else f"tcp://{at}:{PORT + rank}"


def two_ranks(fleet: Fleet, family: int) -> list[LightRank]:
    """They bind every address of their machine, and tell producers one."""
    endpoints = [dialled(family, rank) for rank in range(2)]
    return [
        fleet.rank(
            rank=rank,
            endpoints=endpoints,
            bind=f"tcp://*:{PORT + rank}",
            first_index=rank,
            stride=2,
            workload=WORKLOAD,
            window_groups=16,
        )
        for rank in range(2)
    ]


def until_both_serve_both(ranks: list[LightRank]) -> None:
    for rank in ranks:
        for name in (ANN, BOB):
            rank.until_made_by(name)


def lost_on_the_way(producer: LightProducer, ranks: list[LightRank]) -> list[int]:
    """What it has begun and no rank has got."""
    consumed = {index for rank in ranks for index in rank.indices}
    return [index for index in producer.running if index not in consumed]


@pytest.mark.parametrize("family", [IPV4, IPV6])
def test_a_cut_link_heals_and_nothing_is_lost_and_nothing_twice(fleet: Fleet, network: Network, family: int) -> None:
    ranks = two_ranks(fleet, family)
    # Each is told of one rank, and learns of the other.
    fleet.producer(ANN, dialled(family, 0), batch_s=0.05)
    bob = fleet.producer(BOB, dialled(family, 1), batch_s=0.05)
    until_both_serve_both(ranks)

    bob.until_begun(len(bob.events("batch")) + 1)
    network.cut(BOB)
    cut = time.monotonic()
    for rank in ranks:
        rank.until_log("bob has been silent for")
        rank.until_reissued(after=cut)
        rank.until_all_consumed(index for index in lost_on_the_way(bob, ranks) if index % 2 == rank.plan.rank)
    # Longer than either side believes in the connection.
    wait_until(lambda: time.monotonic() > cut + 12, "the cut")
    made_before = [rank.makers[BOB] for rank in ranks]
    network.heal(BOB)
    for rank, before in zip(ranks, made_before, strict=True):
        rank.until_made_by(BOB, more_than=before)
    for rank in ranks:
        rank.finish()


def test_a_narrow_link_carries_no_more_than_it_can_and_costs_no_lease(fleet: Fleet, network: Network) -> None:
    try:
        network[ANN].limit(BITS_PER_S)
    except RuntimeError as error:
        pytest.skip(f"this kernel limits no rate: {error}")
    ranks = two_ranks(fleet, IPV4)
    # It makes 80 groups a second, of which the link takes ten.
    fleet.producer(ANN, dialled(IPV4), batch_s=0.05, batch_images=16)
    fleet.producer(BOB, dialled(IPV4), batch_s=0.05)
    until_both_serve_both(ranks)
    begun, before = time.monotonic(), sum(rank.makers[ANN] for rank in ranks)
    wait_until(lambda: time.monotonic() > begun + 6, "six seconds")
    by_ann = sum(rank.makers[ANN] for rank in ranks) - before
    took = time.monotonic() - begun
    for rank in ranks:
        rank.finish()
    assert by_ann > 0
    in_the_bucket = 16_384 + GROUP_BYTES * 8
    assert by_ann * GROUP_BYTES < BITS_PER_S / 8 * took + in_the_bucket, "the limit holds"
    assert [rank.statistics["expired"] for rank in ranks] == [0, 0]


def test_a_rank_that_binds_every_address_tells_the_one_of_its_name(fleet: Fleet) -> None:
    rank = fleet.rank(endpoints=[f"tcp://*:{PORT}"], run_id="wild")
    fleet.producer(ANN, f"tcp://{TRAINER}:{PORT}")
    rank.until_made_by(ANN)
    assert rank.events("bound")[0]["endpoint"] == dialled(IPV4)
    rank.finish()


def test_a_name_is_dialled_at_each_of_its_addresses(fleet: Fleet, network: Network) -> None:
    network.cut(BOB)
    rank = fleet.rank(endpoints=[dialled(IPV4)])
    fleet.producer(ANN, f"tcp://several:{PORT}")
    rank.until_made_by(ANN)
    rank.finish()


def test_a_producer_follows_a_trainer_to_another_port(fleet: Fleet) -> None:
    first = fleet.rank(endpoints=[dialled(IPV4)], run_id="moved")
    both = f"{dialled(IPV4)}, {dialled(IPV4, rank=1)}"
    ann = fleet.producer(ANN, both)
    first.until_made_by(ANN)
    first.send(signal.SIGKILL)
    first.end()
    second = fleet.rank(endpoints=[dialled(IPV4, rank=1)], run_id="moved", incarnation=2, workload={"salt": 1})
    second.until_made_by(ANN)
    second.finish()
    assert ann.end(20) == 0


@pytest.mark.parametrize("family", [IPV4, IPV6])
def test_a_machine_without_a_key_is_refused_by_its_address_and_harms_nobody(fleet: Fleet, family: int) -> None:
    rank = fleet.rank(endpoints=[dialled(family)], bind=f"tcp://*:{PORT}")
    fleet.producer(ANN, dialled(family))
    bob = fleet.producer(BOB, dialled(family), key="")
    rank.until_log(f"refused {address(3, family)}: it has no key")
    bob.until_log("wants a key")
    rank.until_groups(len(rank.groups) + 20)
    assert set(rank.makers) == {ANN}
    rank.finish()


def test_a_key_is_revoked_while_its_producer_works(fleet: Fleet) -> None:
    rank = fleet.rank(endpoints=[dialled(IPV4)])
    for name in (ANN, BOB):
        fleet.producer(name, dialled(IPV4))
        rank.until_made_by(name)
    fleet.revoke(BOB)
    rank.until_log("its key was revoked")
    # What had come of it by then is still used.
    rank.until_groups(len(rank.groups) + rank.plan.window_groups + 1)
    made_before = rank.makers[BOB]
    rank.until_groups(len(rank.groups) + 20)
    assert rank.makers[BOB] == made_before
    rank.finish()
