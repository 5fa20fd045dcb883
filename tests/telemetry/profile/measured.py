"""Measurements for the tests of what is made of them."""

import dataclasses
from typing import Any

from penstock.telemetry.profile.measurements import (
    Measurements,
    ProducerMeasured,
    Queue,
    RankMeasured,
    Rate,
    Service,
    StageTimes,
    Together,
)

SECONDS = 10.0


def rate(images_per_s: float, spread: float = 0.01, **more: Any) -> Rate:
    """Ten seconds at this rate; its ten windows differ by `spread` up and down."""
    windows = tuple(images_per_s * (1 + spread * (-1) ** number) for number in range(10))
    return Rate(images=round(images_per_s * SECONDS), seconds=SECONDS, windows=windows, **more)


def together(trained: float, arrived: float, wait_share: float, **more: Any) -> Together:
    """Ten seconds of all together, the queues empty where the trainer waits, else full."""
    starved = wait_share > 0.03
    filled = (0, 1, 0, 0) if starved else (1, 1, 1, 1)
    queues = (
        Queue(name="tickets", capacity=64, filled=(60,) * 4 if starved else (8,) * 4),
        Queue(name="arrived", capacity=64, filled=tuple(50 * full for full in filled)),
        Queue(name="reservoir", capacity=32, filled=tuple(16 + 16 * full for full in filled)),
        Queue(name="batches", capacity=1, filled=filled),
    )
    values = {
        "trained": rate(trained),
        "arrived": rate(arrived),
        "steps": round(trained * SECONDS / 64),
        "wait_share": wait_share,
        "sampled_at_s": (1.0, 3.0, 5.0, 7.0),
        "queues": queues,
        "groups_by_uses": (10, 0, 300),
    }
    return Together(**{**values, **more})


def producer(name: str, images_per_s: float, **more: Any) -> ProducerMeasured:
    """A producer elsewhere."""
    values = {"device": "cuda:0", "backend": "eager", "is_local": False}
    rates = {"alone_images_per_s": images_per_s, "together_images_per_s": images_per_s}
    return ProducerMeasured(name=name, **{**values, **rates, **more})


def measured(**changes: Any) -> Measurements:
    """A producer-bound run of two producers of 100 images/s, e = 2, one rank that takes 1,000; with changes."""
    step = StageTimes(count=60, seconds=6.0, p50_s=0.1, p95_s=0.12, p99_s=0.2)
    stages = {"step": step, "forward": dataclasses.replace(step, p50_s=0.04, seconds=2.4), "wait_batch": step}
    values: dict[str, Any] = {
        "run_id": "run-1",
        "measured_at": 1_795_000_000.0,
        "seconds": 70.0,
        "command": "penstock profile --config demo --out runs/profile",
        "config_digest": "0123abcd",
        "environment": {"machine": "x86_64", "torch": "2.13.0"},
        "cores": 2,
        "is_paced": False,
        "world_size": 1,
        "groups_per_step": 16,
        "images_per_group": 4,
        "images_per_use": 4,
        "policy": "fixed",
        "min_reuse": 2,
        "max_reuse": 2,
        "producers": (producer("a", 100.0), producer("b", 100.0)),
        "ranks": (
            RankMeasured(rank=0, device="cuda:0", images_trained=4000, images_arrived=2000, wait_s=6.0, stages=stages),
        ),
        "fleet": rate(200.0),
        "wire": rate(2000.0, nbytes=61_440_000),
        "host": rate(8000.0),
        "trainer": rate(1000.0),
        "together": together(trained=398.0, arrived=199.0, wait_share=0.6),
        "services": tuple(Service(producer=name, rank=0, groups=250, p50_s=0.04, p95_s=0.05) for name in "ab"),
        "warmup_s": {"producers": 4.0, "first step": 1.5},
    }
    return Measurements(**{**values, **changes})
