"""The paced engine: the time that was asked for, and pixels that are a function of the ticket."""

import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from penstock.producer.config import ProduceConfig
from penstock.producer.engine import make
from penstock.producer.paced_engine import PacedEngine
from penstock.protocol.tickets import Ticket
from tests.protocol.samples import RECIPE


def _ticket(index: int, seed: int = 0, **recipe: int) -> Ticket:
    return Ticket(index=index, rank=0, recipe=replace(RECIPE, seed=seed, **recipe))


def _engine(images_per_s: float = 1e9) -> PacedEngine:
    return PacedEngine(ProduceConfig(backend="paced", paced_images_per_s=images_per_s, batch_images=64))


def test_a_batch_takes_as_long_as_its_images_at_the_pace() -> None:
    engine = _engine(100.0)
    start = time.monotonic()
    groups = make(engine, [_ticket(index, num_images=4) for index in range(5)])
    seconds = time.monotonic() - start
    assert [len(group) for group in groups] == [4] * 5
    assert 0.2 <= seconds < 2.0, "20 images at 100 a second; padding to 64 takes no time"


def test_pixels_are_a_function_of_the_ticket_and_never_black() -> None:
    engine = _engine()
    # More than the block of noise, less than it, and not a multiple of it.
    for height, width in ((256, 256), (8, 8), (150, 151)):
        (group,) = make(engine, [_ticket(0, seed=5, num_images=3, height=height, width=width)])
        assert group.shape == (3, height, width, 3)
        assert group.dtype == np.uint8
        assert group.min() > 0
        assert len({image.tobytes() for image in group}) == 3, "its images differ"
        (again,) = make(_engine(), [_ticket(9, seed=5, num_images=3, height=height, width=width)])
        assert np.array_equal(group, again), "in any process, at any index"
        (other,) = make(engine, [_ticket(0, seed=6, num_images=3, height=height, width=width)])
        assert not np.array_equal(group, other)


def test_a_group_has_memory_of_its_own() -> None:
    """It may still be on its way when the next one is made."""
    engine = _engine()
    first, second = (make(engine, [_ticket(0)])[0] for _ in range(2))
    assert not np.shares_memory(first, second)


@pytest.mark.slow
def test_it_starts_without_torch() -> None:
    code = "import sys; from penstock.producer.__main__ import open_engine; from penstock.producer.config import "
    code += (
        "ProduceConfig; open_engine(ProduceConfig(backend='paced')); assert not {'torch', 'diffusers'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
