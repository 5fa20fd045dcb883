"""The standard library's way: arrays through a bounded `multiprocessing.Queue`, which pickles them into a pipe."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from multiprocessing.queues import Queue

from baselines.sender import IN_FLIGHT, SPAWN, WAIT_S, Get, Images, Shape, ready_groups, running


def send(queue: "Queue[Images]", shape: Shape) -> None:
    """The sender process: puts groups until it is killed."""
    arrays = ready_groups(shape)
    for index in count():
        queue.put(arrays[index % len(arrays)])


@contextmanager
def groups(shape: Shape) -> Iterator[Get]:
    """See the package."""
    queue: Queue[Images] = SPAWN.Queue(maxsize=IN_FLIGHT)
    with running(send, queue, shape):
        yield lambda: queue.get(timeout=WAIT_S)
