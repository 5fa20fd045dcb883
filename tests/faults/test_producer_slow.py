"""Producers that hang, load, wait, dawdle or cannot make what they are asked for."""

import re
import time

import pytest

from tests.faults.conftest import Report
from tests.faults.programs import wait_until
from tests.faults.scene import Scene
from tests.faults.workload import DEADLY, REFUSED


@pytest.mark.fault(
    "Python hangs, I/O lives", expected="its heartbeats do not help: past the deadline its tickets go to another"
)
@pytest.mark.parametrize("order", ["ticket", "arrival"])
def test_a_producer_hangs_while_its_heartbeats_go_on(scene: Scene, order: str, report: Report) -> None:
    # In order of arrival the rank has always something to take, so that no hedge mends what the deadline must.
    rank = scene.rank(order=order, step_s=0.02 if order == "ticket" else 0.2)
    ann, _ = scene.producer("ann", hang_after_batches=2), scene.producer("bob", batch_s=0.05)
    hung = ann.until_begun(3)
    lost = set(ann.running)
    report.recovered_in(rank.until_consumed(lost) - hung)
    rank.until_all_consumed(lost)
    made_before = rank.makers["ann"]
    rank.until_groups(len(rank.groups) + 16)
    assert rank.makers["ann"] == made_before
    assert ann.alive
    seen = rank.finish()
    assert rank.statistics["expired" if order == "arrival" else "hedged"] >= 1
    report.saw(f"{seen}, {len(lost)} taken from it, and no more given")


@pytest.mark.fault("no progress", expected="the log says which rank waits for which ticket, and in whose hands it is")
def test_a_run_that_stands_still_says_why(scene: Scene, report: Report) -> None:
    rank = scene.rank(stall_report_s=0.5, lease_s=3.0)
    ann = scene.producer("ann", hang_after_batches=2)
    hung = ann.until_begun(3)
    words = rf"rank 0 has finished no step for \d s: step \d+ waits for ticket {ann.running[0]} .*held by ann"
    said = rank.until(lambda: re.search(words, rank.output) is not None, words)
    scene.producer("bob")
    rank.until_all_consumed(ann.running)
    report.saw(f"{rank.finish()}, said after {said - hung:.1f} s")


@pytest.mark.long
@pytest.mark.fault("Python hangs in its first batch", expected="a deadline of its own, as for a cold start")
def test_a_producer_hangs_before_it_has_finished_anything(scene: Scene, report: Report) -> None:
    rank = scene.rank(order="arrival", cold_start_s=1.5, step_s=0.2)
    ann, _ = scene.producer("ann", hang_after_batches=0), scene.producer("bob", batch_s=0.05)
    hung = ann.until_begun(1)
    report.recovered_in(rank.until_consumed(set(ann.running)) - hung)
    report.saw(rank.finish())


@pytest.mark.fault("{wait_s} s without a trainer", expected="the producer waits and joins once, when the trainer comes")
@pytest.mark.parametrize("wait_s", [2, pytest.param(60, marks=[pytest.mark.long, pytest.mark.timeout(240)])])
def test_a_producer_comes_before_its_trainer(scene: Scene, wait_s: int, report: Report) -> None:
    ann = scene.producer("ann", trainer_timeout_s=wait_s + 60)
    wait_until_passed(time.monotonic() + wait_s)
    assert ann.alive
    rank = scene.rank()
    bound = rank.until(lambda: bool(rank.events("bound")), "the rank listens")
    report.recovered_in(rank.until_groups(4) - bound)
    seen = rank.finish()
    assert rank.output.count("ann joined") == 1
    assert rank.reissued == 0
    report.saw(f"{seen}, joined once, nothing re-issued")


@pytest.mark.fault("slow model load", expected="longer than lease and time-out, and it costs no lease")
def test_a_model_loads_longer_than_the_lease(scene: Scene, report: Report) -> None:
    rank = scene.rank(producer_timeout_s=2.0, lease_s=2.0)
    ann = scene.producer("ann", load_s=3.0)
    rank.until_log("ann joined")
    begun = ann.until_begun(1)
    report.recovered_in(rank.until_groups(4) - begun)
    seen = rank.finish()
    assert rank.statistics["expired"] == 0
    assert rank.reissued == 0
    report.saw(f"{seen}, 3 s of loading, no lease ran out")


@pytest.mark.long
@pytest.mark.fault("one producer 10 times slower", expected="the run keeps at least half of the fast one's pace")
def test_one_producer_is_ten_times_slower(scene: Scene, order: str, report: Report) -> None:
    rank = scene.rank(order=order, step_s=0.0)
    scene.producer("ann", batch_s=0.06)
    scene.producer("bob", batch_s=0.6)
    rank.until_made_by("bob")
    first, start = len(rank.groups), rank.steps[-1]["at"]
    rank.until_groups(first + 120)
    num_groups, took_s = len(rank.groups) - first, rank.steps[-1]["at"] - start
    seen = rank.finish()
    pace = num_groups / took_s / (4 / 0.06)  # of the 4 groups in 0.06 s that the fast one makes alone
    hedged, slow = rank.statistics["hedged"], rank.makers["bob"] / len(rank.groups)
    report.saw(f"{seen}, {pace:.0%} of its pace, {slow:.0%} made by the slow one, {hedged} hedged")
    assert pace > 0.5


@pytest.mark.fault("poison ticket: ModelError", expected="quarantined; a stand-in in its place; no other is blamed")
def test_no_producer_can_make_a_ticket(scene: Scene, order: str, report: Report) -> None:
    rank = scene.rank(order=order, workload={"poison": {"21": REFUSED}})
    scene.producer("ann")
    scene.producer("bob")
    report.recovered_in(rank.until_consumed([21]) - rank.steps[0]["at"])
    rank.until_groups(64)
    seen = rank.finish()
    assert [record["index"] for record in rank.events("quarantined")] == [21]
    assert stand_ins(rank.steps) == {21: 1}
    report.saw(f"{seen}, ticket 21 and no other replaced")


@pytest.mark.long
@pytest.mark.fault(
    "poison ticket: kills its producer", expected="quarantined after so many producers; no other is blamed"
)
def test_a_ticket_kills_whoever_begins_it(scene: Scene, order: str, report: Report) -> None:
    rank = scene.rank(order=order, workload={"poison": {"21": DEADLY}})
    fleet = [scene.producer(f"p{number}") for number in range(2)]
    began = rank.until_groups(4)
    while not any(producer.alive and 21 in rank.indices for producer in fleet):
        # As a launcher would: whoever dies is started again.
        for _ in [producer for producer in fleet[-2:] if not producer.alive]:
            fleet.append(scene.producer(f"p{len(fleet)}"))
        assert len(fleet) < 12, rank.output
        wait_until(lambda: not all(p.alive for p in fleet[-2:]) or 21 in rank.indices, "one dies, or 21 is made")
    report.recovered_in(rank.until_consumed([21]) - began)
    rank.until_groups(64)
    seen = rank.finish()
    dead = sum(not producer.alive and producer.process.returncode < 0 for producer in fleet)
    assert [record["index"] for record in rank.events("quarantined")] == [21]
    assert stand_ins(rank.steps) == {21: 1}
    assert dead == 2 + rank.plan.max_attempts, "two in company, which proves nothing, and then alone"
    report.saw(f"{seen}, {dead} producers died, ticket 21 and no other replaced")


def stand_ins(steps: list[dict[str, list[int]]]) -> dict[int, int]:
    """Which stand-in was consumed, for every index where one was."""
    pairs = [pair for step in steps for pair in zip(step["indices"], step["stand_ins"], strict=True)]
    return {index: stand_in for index, stand_in in pairs if stand_in}


def wait_until_passed(deadline: float) -> None:
    """Here the wait is the fault."""
    import time

    wait_until(lambda: time.monotonic() >= deadline, "time passes", within_s=deadline - time.monotonic() + 5)
