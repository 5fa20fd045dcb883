"""The sender process of a baseline, and the ready-made groups that every baseline sends."""

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import SpawnProcess

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, int, int, int]
"""(m, H, W, 3)."""
Images = NDArray[np.uint8]
Get = Callable[[], Images]

NUM_GROUPS = 32
"""Different groups in rotation: with fewer the sender's would all lie in the cache."""
IN_FLIGHT = 16
"""Groups on their way where a baseline bounds them by number: Penstock's default credit."""
WAIT_S = 20.0
"""The longest that a receiver waits for one group, and a sender for its end."""
SPAWN = multiprocessing.get_context("spawn")


def ready_groups(shape: Shape) -> list[Images]:
    """The same `NUM_GROUPS` groups of noise in every process; both sides make them before the clock runs."""
    generator = np.random.Generator(np.random.PCG64(0))
    return [generator.integers(0, 256, shape, dtype=np.uint8) for _ in range(NUM_GROUPS)]


@contextmanager
def running(target: Callable[..., None], *args: object, ends_itself_s: float = 0.0) -> Iterator[SpawnProcess]:
    """A process with `target(*args)`. It gets so many seconds to end by itself, then it is killed."""
    process = SPAWN.Process(target=target, args=args, daemon=True)
    process.start()
    try:
        yield process
    finally:
        process.join(ends_itself_s)
        process.kill()
        process.join()
