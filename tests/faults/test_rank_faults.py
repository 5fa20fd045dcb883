"""Ranks that are killed and started again, paused, or told to end."""

import signal
import time
from typing import Any

import pytest

from tests.faults.conftest import Report
from tests.faults.programs import wait_until
from tests.faults.scene import Scene, free_port

MIB = 1 << 20


@pytest.mark.fault(
    "trainer killed, restarted on its port", expected="the producers stay; no group of the earlier life gets in"
)
def test_a_trainer_is_killed_and_comes_back(scene: Scene, order: str, report: Report) -> None:
    # Each life asks for other pixels at the same index: a stale group would be seen.
    first = scene.rank(order=order, workload={"salt": 1})
    fleet = [scene.producer(name, batch_s=0.15) for name in ("ann", "bob")]
    for producer in fleet:
        first.until_made_by(producer.name)
    for producer in fleet:
        producer.until_begun(len(producer.events("batch")) + 1)
    killed = first.send(signal.SIGKILL)
    first.end()
    rank = scene.rank(order=order, incarnation=2, workload={"salt": 2})
    report.recovered_in(rank.until_groups(1) - killed)
    for producer in fleet:
        rank.until_made_by(producer.name)
    seen = rank.finish()
    assert list(scene.producers_end()) == [0, 0]
    report.saw(f"{seen}, by the same two processes")


@pytest.mark.fault(
    "one rank paused for {pause_s} s", expected="its memory stays below the cap + 10%; the other rank goes on"
)
@pytest.mark.parametrize(
    ("order", "pause_s"),
    [
        ("ticket", 5),
        pytest.param("arrival", 5, marks=pytest.mark.long),
        pytest.param("ticket", 60, marks=[pytest.mark.long, pytest.mark.timeout(240)]),
    ],
)
def test_a_paused_rank_stays_within_its_cap(scene: Scene, order: str, pause_s: int, report: Report) -> None:
    cap = 96 * MIB
    endpoints = [scene.endpoint, f"tcp://127.0.0.1:{free_port()}"]
    # Groups of 3 MiB: the window would let in twice the cap. What the trainer takes is its own and not the cap's, but
    # the allocator may keep it when it is freed: so no more than two groups a step.
    plan: dict[str, Any] = {
        "order": order,
        "endpoints": endpoints,
        "stride": 2,
        "workload": {"side": 512},
        "window_bytes": cap,
    }
    plan |= {"window_groups": 64, "lease_s": 5.0, "groups_per_step": 2}
    paused = scene.rank(**plan, rank=0, pause_at_step=6)
    other = scene.rank(**plan, rank=1, first_index=1, step_s=0.1)
    paused.until(lambda: bool(paused.events("bound")), "the rank listens")
    level = paused.private_bytes()
    for name in ("ann", "bob", "cid", "dan"):
        scene.producer(name, credit_groups=64)
    at = paused.until(lambda: bool(paused.events("paused")), "the rank pauses")
    consumed, peak = len(other.groups), 0

    def passed() -> bool:
        nonlocal peak
        peak = max(peak, paused.private_bytes())
        return time.monotonic() > at + pause_s

    wait_until(passed, "the pause", within_s=pause_s + 10)
    went_on = len(other.groups) - consumed
    paused.go_on()
    asked = time.monotonic()
    report.recovered_in(paused.until_groups(16) - asked)
    seen, _ = paused.finish(), other.finish()
    assert went_on >= 8, "the other rank goes on"
    assert paused.statistics["expired"] == 0, "a paused rank is no reason to take tickets back"
    grown = (peak - level) / MIB
    report.saw(f"{seen}, grew by {grown:.1f} MiB of {cap // MIB}; the other took {went_on}")
    assert 0.8 * cap < peak - level <= 1.1 * cap


@pytest.mark.fault("SIGTERM on the trainer", expected="ends with status 143; its producers end too, at once")
def test_a_trainer_is_told_to_end(scene: Scene, report: Report) -> None:
    rank = scene.rank()
    fleet = [scene.producer(name, batch_s=0.3) for name in ("ann", "bob")]
    for producer in fleet:
        rank.until_made_by(producer.name)
    told = rank.send(signal.SIGTERM)
    assert rank.end(10) == 128 + signal.SIGTERM
    ended_s = time.monotonic() - told
    assert list(scene.producers_end()) == [0, 0]
    all_ended_s = time.monotonic() - told
    assert len(set(rank.indices)) == len(rank.indices)
    assert not any("Traceback" in program.output for program in (rank, *fleet))
    report.saw(f"rank gone in {ended_s:.1f} s, producers in {all_ended_s:.1f} s with status 0")
