"""The ticket fixes the pixels, not the worker: real engines with the shipped model, in processes of their own."""

import signal

import pytest

from tests.faults.conftest import Report
from tests.faults.programs import LightRank, Program
from tests.faults.scene import Scene, free_port

NUM_GROUPS = 6
LOAD_S = 100.0
"""Longer than two processes take to load torch on a busy machine."""


def digests(rank: LightRank) -> dict[int, str]:
    """SHA-256 of every group, by index."""
    return {
        index: digest for step in rank.steps for index, digest in zip(step["indices"], step["digests"], strict=True)
    }


def produce(scene: Scene, name: str, endpoint: str) -> Program:
    """`penstock produce` with the shipped model and batches of 16 images."""
    options = ["--config", "demo", "--connect", endpoint, "--name", name, "--threads", "1"]
    options += ["--batch-images", "16", "--batch-wait-s", "0.3"]
    return scene.program(name, "-m", "penstock.producer", *options)


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.fault(
    "a group alone and in company, by A and by B", expected="the same bits from four makings of every group"
)
def test_the_worker_and_the_company_change_no_bit(scene: Scene, report: Report) -> None:
    workload = {"side": 32, "num_images": 4, "num_inference_steps": 3, "guidance_scale": 2.5}
    plan = {"check": False, "workload": workload, "groups_per_step": 1, "lease_s": 30.0, "heartbeat_s": 1.0}
    plan |= {"warmup_timeout_s": LOAD_S, "producer_timeout_s": LOAD_S}
    ports = [scene.endpoint, f"tcp://127.0.0.1:{free_port()}"]
    # Each producer has a rank of its own, whose window has room for one group: every group is made alone.
    alone = [
        scene.rank(**plan, endpoints=[port], run_id=f"alone-{number}", window_groups=1, incarnation=number)
        for number, port in enumerate(ports, start=1)
    ]
    producers = [produce(scene, name, port) for name, port in zip(("a", "b"), ports, strict=True)]
    for rank in alone:
        rank.until_groups(NUM_GROUPS, within_s=LOAD_S)
        rank.send(signal.SIGKILL)
        rank.end()
    # The same producers, now both of two ranks that ask for the same groups, four to a batch.
    company = [
        scene.rank(**plan, endpoints=ports, rank=rank, run_id="company", window_groups=12, incarnation=3)
        for rank in range(2)
    ]
    for rank in company:
        rank.until(lambda rank=rank: {"a", "b"} <= set(rank.makers), "both make some of them")  # type: ignore[misc]
        rank.until_groups(NUM_GROUPS)
        rank.finish()
    assert [producer.end(20) for producer in producers] == [0, 0]
    made = [digests(rank) for rank in (*alone, *company)]
    different = [index for index in range(NUM_GROUPS) if len({by_index[index] for by_index in made}) != 1]
    assert len(set(made[0].values())) == len(made[0]), "different tickets give different groups"
    makers = [sorted(set(rank.makers)) for rank in (*alone, *company)]
    assert makers == [["a"], ["b"], ["a", "b"], ["a", "b"]]
    report.saw(f"{NUM_GROUPS} groups × 4 makings, {len(different)} differ")
    assert different == []
