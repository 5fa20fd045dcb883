"""A run that is not one, for tests of what shows runs: it moves as a real one does, and a test sets its figures."""

import time
from dataclasses import replace
from typing import Any

import numpy as np

from penstock.telemetry.run_view import EventView, GroupView, ProducerView, QueueView, RunView, StageView
from penstock.telemetry.summary import Verdict

PROMPTS = (
    "a photo of a red fox asleep in fresh snow, seen from above",
    "a lighthouse on a cliff at dusk, long exposure",
    "three lemons on a blue plate",
    "an old tram in the rain, its lamps reflected on wet cobblestones, film grain",
    "a heron",
)


def producer(name: str, state: str = "ready", **changes: Any) -> ProducerView:
    """A producer that does well."""
    usual = ProducerView(
        name=name,
        state=state,
        device="cpu",
        backend="eager",
        images=4_120,
        images_per_s=34.8,
        held=11,
        credit_groups=16,
        silent_s=0.4,
        p50_s=1.9,
        p95_s=2.6,
        busy_share=0.94,
        flop_share=0.41,
    )
    return replace(usual, **changes)


def group(index: int, num_images: int = 8, side: int = 32, prompt: str | None = None) -> GroupView:
    """A group of coloured blobs, others for every index."""
    random = np.random.default_rng(index)
    rows, columns = np.mgrid[0:side, 0:side] / side
    images = []
    for _ in range(num_images):
        y, x, size = random.uniform([0.25, 0.25, 0.1], [0.75, 0.75, 0.35])
        blob = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * size**2))[..., None]
        paper = np.linspace(random.uniform(20, 230, 3), random.uniform(20, 230, 3), side)[:, None]
        images.append(paper * (1 - blob) + random.uniform(0, 255, 3) * blob)
    shown = PROMPTS[index % len(PROMPTS)] if prompt is None else prompt
    return GroupView(index, shown, f"producer-{index % 2}", np.asarray(images).astype(np.uint8))


def run_view(step: int = 340, **changes: Any) -> RunView:
    """A run after some steps."""
    steps = range(0, step + 1, 10)
    noise = np.random.default_rng(0).normal(0, 0.06, len(steps))
    usual = RunView(
        at=time.time(),
        run_id="7ef35c8e06a909ba",
        run_dir="runs/demo",
        objective="stablerep",
        state="running",
        waiting_for=None,
        rank=0,
        world_size=1,
        step=step,
        max_steps=900,
        seconds=0.18 * step,
        images_made=24 * step,
        images_trained=256 * step,
        made_per_s=69.6 + 4 * np.sin(step / 9),
        steps_per_s=5.0,
        trained_per_s=1_489.0 + 60 * np.sin(step / 13),
        reuse=21.2,
        data_wait=0.031,
        bytes_per_s=214_000.0,
        flop_share=0.37,
        loss=[(n, float(2.1 + 3.4 * np.exp(-n / 160) + e)) for n, e in zip(steps, noise, strict=True)],
        knn=[(n, 0.9 - 0.68 * float(np.exp(-n / 150))) for n in range(0, step + 1, 50)],
        rankme=[(n, 12 + 22 * (1 - float(np.exp(-n / 90)))) for n in range(0, step + 1, 50)],
        queues=(
            QueueView(name="tickets", filled=27, capacity=32),
            QueueView(name="arrived", filled=3, capacity=32, nbytes=73_728),
            QueueView(name="reservoir", filled=231, capacity=256, nbytes=5_677_056),
            QueueView(name="batches", filled=1, capacity=1, nbytes=786_432),
        ),
        stages={
            "step": StageView(share=0.96, p50_s=0.167, p95_s=0.21, p99_s=0.24),
            "backward": StageView(share=0.51, p50_s=0.088, p95_s=0.1, p99_s=0.12),
            "forward": StageView(share=0.3, p50_s=0.052, p95_s=0.06, p99_s=0.07),
            "augment": StageView(share=0.09, p50_s=0.0141, p95_s=0.02, p99_s=0.03),
            "optimizer": StageView(share=0.05, p50_s=0.0085, p95_s=0.01, p99_s=0.012),
            "wait_batch": StageView(share=0.031, p50_s=0.0004, p95_s=0.02, p99_s=0.2),
            "collate": StageView(share=0.012, p50_s=0.0021, p95_s=0.004, p99_s=0.005),
            "receive": StageView(share=0.004, p50_s=0.0006, p95_s=0.001, p99_s=0.002),
        },
        producers=[producer("producer-0"), producer("producer-1", images_per_s=33.1)],
        verdict=Verdict(
            "balanced",
            "The trainer waited 3.1% of its time for images: neither side waits much for the other.",
            "To go faster, add to both sides.",
        ),
        expired=0,
        hedged=2,
        quarantined=0,
        rejects={},
        events=(
            EventView(at=1_794_000_000.0, is_warning=False, text="producer-0 is ready: 16 groups of credit"),
            EventView(at=1_794_000_100.0, is_warning=True, text="producer-1 was silent for 4.1 s"),
        ),
        groups=tuple(group(step - n) for n in range(min(4, step + 1))),
    )
    return replace(usual, **changes)


class FakeRun:
    """Something to look at; `now` is what it shows."""

    def __init__(self, first: RunView | None = None) -> None:
        self.now = first or run_view()
        self.looks = 0

    def change(self, **changes: Any) -> None:
        """It goes on, with other figures."""
        self.now = replace(self.now, **changes)

    def __call__(self) -> RunView:
        self.looks += 1
        return self.now
