"""Views of a run for tests of what shows them."""

from dataclasses import replace
from typing import Any

import numpy as np

from penstock.telemetry.run_view import EventView, GroupView, ProducerView, QueueView, RunView, StageView
from penstock.telemetry.summary import Verdict


def producer(name: str, state: str = "ready", **changes: Any) -> ProducerView:
    """A producer with figures of its own."""
    base = ProducerView(
        name=name,
        state=state,
        device="cpu",
        backend="eager",
        images=1200,
        images_per_s=41.5,
        held=12,
        credit_groups=16,
        silent_s=0.3,
        p50_s=1.8,
        p95_s=2.4,
        busy_share=0.97,
    )
    return replace(base, **changes)


def group(index: int = 7, value: int = 200) -> GroupView:
    """Two images of one grey each."""
    return GroupView(index, "a handwritten seven", "local-0", np.full((2, 32, 32, 3), value, dtype=np.uint8))


def run_view(**changes: Any) -> RunView:
    """A run in its middle that waits for its producers."""
    stage = StageView(share=0.3, p50_s=0.02, p95_s=0.03, p99_s=0.05)
    base = RunView(
        at=1_800_000_000.0,
        run_id="1f",
        run_dir="runs/test",
        objective="stablerep",
        state="running",
        waiting_for=None,
        rank=0,
        world_size=1,
        step=120,
        max_steps=600,
        seconds=83.0,
        images_made=12_345,
        images_trained=30_720,
        made_per_s=412.0,
        trained_per_s=1872.0,
        steps_per_s=4.0,
        reuse=2.5,
        data_wait=0.31,
        bytes_per_s=4.2e6,
        flop_share=None,
        loss=tuple((step, 5.0 - step / 60) for step in range(0, 121, 10)),
        knn=((50, 0.3), (100, 0.652)),
        rankme=(),
        queues=(
            QueueView(name="tickets", filled=52, capacity=64),
            QueueView(name="arrived", filled=4, capacity=64, nbytes=1000),
            QueueView(name="reservoir", filled=480, capacity=512, nbytes=126_000_000),
            QueueView(name="batches", filled=1, capacity=1),
        ),
        stages={"collate": stage, "step": stage, "wait_batch": stage},
        producers=(producer("local-0"), producer("local-1")),
        verdict=Verdict("producers", "The trainer waits 31% of its time for images.", "Add producers."),
        expired=0,
        hedged=0,
        quarantined=0,
        rejects={},
        events=(EventView(at=1_800_000_000.0, is_warning=False, text="local-0 joined"),),
    )
    return replace(base, **changes)
