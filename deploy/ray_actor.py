"""One producer of a fleet on Ray: an actor that holds an ordinary `penstock produce`, and is as mortal as its node.

The producer is a process of its own, so that its signals, its memory and its devices are those of every other producer.
It never outlives the actor. Ray starts an actor that was lost again, here or on another node, and calls `serve` anew.
"""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from penstock.config import children
from penstock.producer.device_child import FOR_GOOD, Backoff

_POLL_S = 0.5


class ProducerActor:
    """A producer. `serve` and `drain` run side by side: the actor has two threads.

    Args:
        name: the producer's, in logs and metrics.
        arguments: of `penstock produce`, but for the name.
    """

    def __init__(self, name: str, arguments: Sequence[str]) -> None:
        self._command = [sys.executable, "-m", "penstock.producer", *arguments, f"--name={name}"]
        self._child: subprocess.Popen[bytes] | None = None
        self._draining = False

    def serve(self) -> int:
        """Be a producer until the run is over, it is drained, or it fails for good; returns its exit status.

        After a crash it starts again, here, after a growing while.
        """
        backoff = Backoff()
        while True:
            begun_at = time.monotonic()
            self._child = children.start(self._command)
            status = children.exit_status(self._child.wait())
            if status in FOR_GOOD or self._draining:
                return status
            wait_until = time.monotonic() + backoff.after(time.monotonic() - begun_at)
            while time.monotonic() < wait_until and not self._draining:
                time.sleep(_POLL_S)

    def drain(self) -> None:
        """Ask the producer to hand back what it has not begun, to finish the rest and to end."""
        self._draining = True
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                self._child.send_signal(signal.SIGTERM)
