"""One producer of a fleet on Ray: an actor that holds an ordinary `penstock produce`, and is as mortal as its node.

The producer is a process of its own, so that its signals, its memory and its devices are those of every other producer.
It never outlives the actor. Ray starts an actor that was lost again, here or on another node, and calls `serve` anew;
a producer that crashes is started again by its actor, as one of `penstock produce --devices` is.
"""

import signal
import threading
import time
from collections.abc import Sequence

from penstock.producer.device_child import DeviceChild

_TICK_S = 0.1
TERMINATED = 128 + signal.SIGTERM
"""Exit status of a producer that was drained."""


class ProducerActor:
    """A producer. `serve` and `drain` run side by side: the actor has two threads.

    Args:
        name: the producer's, in logs and metrics.
        command: that starts it.
    """

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self._child = DeviceChild(name, "Ray", command, {})
        self._drains = threading.Event()

    def serve(self) -> int:
        """Be a producer until the run is over, it is drained, or it fails for good; returns its exit status."""
        try:
            while self._child.status is None:
                if self._drains.is_set():
                    self._child.ask_to_end(TERMINATED)
                self._child.step(time.monotonic(), may_restart=not self._drains.is_set())
                time.sleep(_TICK_S)
        finally:
            self._child.kill()
            self._child.clear_up()
        return self._child.status

    def drain(self) -> None:
        """Ask the producer to hand back what it has not begun, to finish the rest and to end, and start none anew."""
        self._drains.set()
