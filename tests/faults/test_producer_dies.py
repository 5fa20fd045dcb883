"""Producers that are killed, stopped, told to end, or all gone."""

import re
import signal
import time

import pytest

from tests.faults.conftest import Report
from tests.faults.programs import wait_until
from tests.faults.scene import Scene


@pytest.mark.fault(
    "SIGKILL in mid-generation", expected="what it had begun is made by another; nothing lost, nothing twice"
)
def test_a_producer_is_killed_in_mid_generation(scene: Scene, order: str, report: Report) -> None:
    rank = scene.rank(order=order)
    ann, _ = scene.producer("ann", batch_s=0.2), scene.producer("bob", batch_s=0.2)
    rank.until_made_by("bob")
    ann.until_begun(2)
    killed = ann.send(signal.SIGKILL)
    lost = set(ann.running) - set(rank.indices)
    report.recovered_in(rank.until_consumed(lost) - killed)
    rank.until_all_consumed(lost)
    seen = rank.finish()
    assert lost
    assert all(name == "bob" and attempt > 0 for index, name, attempt in rank.groups if index in lost)
    report.saw(f"{seen}, {len(lost)} re-issued")


@pytest.mark.fault("SIGKILL in mid-send", expected="half a group is no group: made again by another")
def test_a_producer_is_killed_in_mid_send(scene: Scene, order: str, report: Report) -> None:
    rank = scene.rank(order=order, workload={"side": 256})
    proxy = scene.proxy()
    ann = scene.producer("ann", connect=proxy.endpoint)
    rank.until_made_by("ann")
    scene.producer("bob")
    rank.until_made_by("bob")
    proxy.up.cut_after_bytes = 300_000  # of a group's 786,432
    wait_until(lambda: proxy.up.cut_after_bytes == 0, "ann is in the middle of a group")
    killed = ann.send(signal.SIGKILL)
    rank.until_all_consumed(index for index, _ in ann.begun)
    seen = rank.finish()
    lost = {index for index, _ in ann.begun} - {index for index, name, _ in rank.groups if name == "ann"}
    assert lost, "the group in the middle of which it was killed is not its own"
    report.recovered_in(rank.until_consumed(lost) - killed)
    report.saw(f"{seen}, {len(lost)} re-issued")


@pytest.mark.fault(
    "SIGSTOP past the lease, SIGCONT",
    expected="its tickets go to another; back, it serves again; nothing late gets in",
)
def test_a_producer_stops_past_its_lease_and_comes_back(scene: Scene, order: str, report: Report) -> None:
    rank = scene.rank(order=order)
    ann, _ = scene.producer("ann", batch_s=0.2), scene.producer("bob", batch_s=0.2)
    rank.until_made_by("bob")
    ann.until_begun(2)
    stopped = ann.send(signal.SIGSTOP)
    lost = set(ann.running) - set(rank.indices)
    report.recovered_in(rank.until_consumed(lost) - stopped)
    rank.until_all_consumed(lost)
    made_before = rank.makers["ann"]
    ann.send(signal.SIGCONT)
    rank.until_made_by("ann", more_than=made_before)
    seen = rank.finish()
    late = sum(count for _, name, count in rank.statistics["rejects"] if name in ("ann", "unknown"))
    assert rank.statistics["expired"] >= 1
    report.saw(f"{seen}, {rank.statistics['expired']} leases ran out, {late} late messages refused")


@pytest.mark.fault("all producers gone and back", expected="a named state that says so, and heals when one comes")
def test_all_producers_are_gone_and_one_comes_back(scene: Scene, order: str, report: Report) -> None:
    rank = scene.rank(order=order)
    fleet = [scene.producer("ann", batch_s=0.2), scene.producer("bob", batch_s=0.2)]
    for producer in fleet:
        rank.until_made_by(producer.name)
    for producer in fleet:
        producer.send(signal.SIGKILL)
    rank.until_log("held by nobody: all producers are gone")
    scene.producer("cid")
    came = rank.until_log("cid joined")
    report.recovered_in(rank.until_made_by("cid") - came)
    report.saw(f"{rank.finish()}, the log named the state")


@pytest.mark.fault(
    "SIGTERM on a producer",
    expected="what it began arrives, the rest is handed back at once; status 143",
)
def test_a_producer_is_told_to_end(scene: Scene, order: str, report: Report) -> None:
    rank = scene.rank(order=order, lease_s=10.0)
    ann = scene.producer("ann", batch_s=0.3)
    ann.until_begun(1)
    scene.producer("bob", batch_s=0.3)
    rank.until_made_by("bob")
    ann.until_begun(len(ann.events("batch")) + 1)
    begun = set(ann.running)
    told = ann.send(signal.SIGTERM)
    assert ann.end(10) == 128 + signal.SIGTERM
    ended_s = time.monotonic() - told
    report.recovered_in(rank.until_reissued(after=told) - told)
    rank.until_all_consumed(begun)
    seen = rank.finish()
    assert begun <= {index for index, name, _ in rank.groups if name == "ann"}, "what was begun arrives"
    assert set(ann.running) == begun, "nothing was begun after the signal"
    # Tickets that were on their way to it when it began to drain come back by a second DRAIN.
    handed_back = sum(map(int, re.findall(r"ann drains: .*; (\d+) of \d+ tickets go to others", rank.output)))
    assert handed_back > 0, "at once, and not when ann has finished"
    assert rank.events("quarantined") == []
    assert rank.statistics["expired"] == 0
    assert "Traceback" not in ann.output
    report.saw(f"{seen}, {handed_back} handed back, ended in {ended_s:.1f} s")
