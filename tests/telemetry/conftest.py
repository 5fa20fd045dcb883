"""A plausible run's figures."""

import dataclasses
from collections.abc import Callable

import pytest

from penstock.telemetry.summary import Knn, Summary


@pytest.fixture
def make_summary() -> Callable[..., Summary]:
    """Make the summary of a good run, with changes."""
    knn = Knn(before=0.147, after=0.885, raw_scans_after=0.83, pixels=0.552, k=20, temperature=0.07)
    summary = Summary(
        run_id="demo-1",
        seconds=214.3,
        producers=1,
        world_size=1,
        steps=600,
        images_generated=7200,
        images_trained=153_600,
        reuse_factor=21.3,
        groups_by_uses=(8, 40, 0, 852),
        producer_images_per_s=38.2,
        trainer_images_per_s=811.0,
        data_wait_fraction=0.004,
        bytes_received=22_200_000,
        messages_rejected=0,
        tickets_expired=0,
        tickets_hedged=0,
        tickets_quarantined=0,
        image_bytes_written=181_000,
        knn=knn,
    )
    return lambda **changes: dataclasses.replace(summary, **changes)
