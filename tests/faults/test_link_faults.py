"""Links that are slow, narrow, half open, cut in two, and whole again."""

import time

import pytest

from tests.faults.conftest import Report
from tests.faults.programs import LightProducer, LightRank, wait_until
from tests.faults.proxy import Proxy
from tests.faults.scene import Scene


def behind_a_proxy(scene: Scene, order: str) -> tuple[LightRank, LightProducer, Proxy]:
    """A rank that ann serves through a proxy and bob directly."""
    rank, proxy = scene.rank(order=order), scene.proxy()
    ann = scene.producer("ann", connect=proxy.endpoint, batch_s=0.1)
    scene.producer("bob", batch_s=0.1)
    rank.until_made_by("ann")
    rank.until_made_by("bob")
    ann.until_begun(len(ann.events("batch")) + 1)
    return rank, ann, proxy


@pytest.mark.fault(
    "partition and heal", expected="its tickets go to another; healed, it serves, and nothing comes twice"
)
def test_a_partition_heals(scene: Scene, order: str, report: Report) -> None:
    rank, ann, proxy = behind_a_proxy(scene, order)
    proxy.partition()
    cut = time.monotonic()
    lost = set(ann.running) - set(rank.indices)
    rank.until_all_consumed(lost)
    report.recovered_in(rank.until_reissued(after=cut) - cut)
    rank.until_log("ann has been silent")
    made_before = rank.makers["ann"]
    proxy.heal()
    rank.until_made_by("ann", more_than=made_before)
    seen = rank.finish()
    report.saw(f"{seen}, {rank.statistics['expired']} leases ran out, it serves again")


@pytest.mark.long
@pytest.mark.fault("partition for 15 s", expected="longer than the sockets' own time-out: dialled again, joined again")
def test_a_partition_outlasts_the_sockets_patience(scene: Scene, report: Report) -> None:
    rank, _, proxy = behind_a_proxy(scene, "ticket")
    proxy.partition()
    cut = time.monotonic()
    report.recovered_in(rank.until_reissued(after=cut) - cut)
    wait_until(lambda: time.monotonic() > cut + 15, "the partition")
    made_before = rank.makers["ann"]
    proxy.heal()
    healed = time.monotonic()
    back_s = rank.until_made_by("ann", more_than=made_before) - healed
    seen = rank.finish()
    assert rank.output.count("ann joined") >= 2
    report.saw(f"{seen}, it serves {back_s:.1f} s after it has healed")


@pytest.mark.long
@pytest.mark.fault("partition from the only producer", expected="the run waits, says so, and goes on when it heals")
def test_the_only_link_is_cut_and_heals(scene: Scene, order: str, report: Report) -> None:
    rank, proxy = scene.rank(order=order), scene.proxy()
    scene.producer("ann", connect=proxy.endpoint, batch_s=0.05)
    rank.until_made_by("ann")
    proxy.partition()
    rank.until_log("all producers are gone")
    consumed = len(rank.groups)
    proxy.heal()
    healed = time.monotonic()
    report.recovered_in(rank.until_groups(consumed + 1) - healed)
    report.saw(rank.finish())


@pytest.mark.long
@pytest.mark.fault(
    "half-open link to the producer", expected="tickets sent into the void come back within a lease or two"
)
def test_what_is_sent_into_the_void_comes_back(scene: Scene, order: str, report: Report) -> None:
    rank, ann, proxy = behind_a_proxy(scene, order)
    proxy.down.swallowed = True
    cut = time.monotonic()
    report.recovered_in(rank.until_reissued(after=cut) - cut)
    begun = len(ann.events("batch"))
    rank.until_groups(len(rank.groups) + 64)
    seen = rank.finish()
    assert len(ann.events("batch")) <= begun + 2, "it is given nothing more"
    report.saw(f"{seen}, {rank.statistics['expired']} leases ran out")


@pytest.mark.long
@pytest.mark.fault("half-open link to the rank", expected="who is not heard holds nothing")
def test_a_producer_that_cannot_be_heard_holds_nothing(scene: Scene, order: str, report: Report) -> None:
    rank, _, proxy = behind_a_proxy(scene, order)
    proxy.up.swallowed = True
    cut = time.monotonic()
    report.recovered_in(rank.until_reissued(after=cut) - cut)
    rank.until_groups(len(rank.groups) + 64)
    report.saw(f"{rank.finish()}, {rank.statistics['expired']} leases ran out")


@pytest.mark.fault("reset link", expected="noticed within a heartbeat; the producer dials again and serves")
def test_a_reset_link_is_dialled_again(scene: Scene, order: str, report: Report) -> None:
    rank, _, proxy = behind_a_proxy(scene, order)
    proxy.reset()
    cut = time.monotonic()
    rank.until_log("ann is gone")
    rank.until(lambda: rank.output.count("ann joined") == 2, "ann comes back")
    made_before = rank.makers["ann"]
    report.recovered_in(rank.until_made_by("ann", more_than=made_before) - cut)
    report.saw(f"{rank.finish()}, it joined twice")


@pytest.mark.long
@pytest.mark.fault("delay of 0.3 s each way", expected="three heartbeats late costs no lease")
def test_a_slow_link_costs_no_lease(scene: Scene, order: str, report: Report) -> None:
    rank, proxy = scene.rank(order=order, lease_s=3.0), scene.proxy()
    proxy.up.delay_s = proxy.down.delay_s = 0.3
    scene.producer("ann", connect=proxy.endpoint, batch_s=0.05)
    rank.until_groups(32)
    seen = rank.finish()
    assert rank.statistics["expired"] == 0
    assert rank.reissued == 0
    report.saw(f"{seen}, nothing re-issued")


@pytest.mark.long
@pytest.mark.fault("narrow link", expected="heartbeats that wait behind a batch of groups cost no lease")
def test_a_narrow_link_costs_no_lease(scene: Scene, report: Report) -> None:
    # Four groups of 786,432 bytes at a time: 5.2 s through this pipe, longer than a lease.
    rank, proxy = scene.rank(workload={"side": 256}, window_groups=4, step_s=0.0, lease_s=3.0), scene.proxy()
    proxy.up.bytes_per_s = 600_000
    scene.producer("ann", connect=proxy.endpoint, batch_s=0.05)
    rank.until_groups(8)
    seen = rank.finish()
    report.saw(f"{seen}, {rank.statistics['expired']} leases ran out")
    assert rank.statistics["expired"] == 0
