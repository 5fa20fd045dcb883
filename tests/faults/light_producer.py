"""A producer whose service, state machine and sockets are the real ones, and whose engine is numpy.

`python -m tests.faults.light_producer JSON`, with the fields of `ProducerPlan`. It begins within half a second, and
misbehaves as it is told to. What it does is written line by line to `events`.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.config.process import configure_logging, ending_gently, run
from penstock.producer.config import ProduceConfig
from penstock.producer.engine import Pending
from penstock.producer.service import ProducerService
from penstock.producer.work import Work
from penstock.protocol.errors import ModelError
from penstock.protocol.tickets import Manifest, Ticket
from tests.faults.workload import DEADLY, REFUSED, light_manifest, pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerPlan:
    """What a light producer does."""

    name: str
    connect: str
    key: str = ""
    """File of its key; empty for plain links."""
    events: str
    """Path of the file that gets one JSON line for each batch begun."""
    batch_s: float = 0.02
    """Seconds a batch takes."""
    load_s: float = 0.0
    """Seconds the model takes to load."""
    hang_after_batches: int = -1
    """Generation stands still after so many batches while the I/O thread lives; -1 never."""
    batch_images: int = 16
    credit_groups: int = 16
    batch_wait_s: float = 0.0
    trainer_timeout_s: float = 90.0


class LightEngine:
    """Makes groups of noise that their tickets fix."""

    def __init__(self, plan: ProducerPlan) -> None:
        self._plan = plan
        self.work = Work()
        self._events = Path(plan.events).open("a", buffering=1)  # noqa: SIM115 - lives as long as the process
        self._num_batches = 0

    @property
    def manifest(self) -> Manifest:
        return light_manifest(self._plan.batch_images)

    def load(self) -> None:
        time.sleep(self._plan.load_s)

    def company(self, ticket: Ticket) -> Hashable:
        return None

    def generate(self, tickets: Sequence[Ticket]) -> Pending:
        begun = [[ticket.index, ticket.attempt] for ticket in tickets]
        self._events.write(json.dumps({"event": "batch", "begun": begun, "at": time.monotonic()}) + "\n")
        if self._num_batches == self._plan.hang_after_batches:
            threading.Event().wait()
        self._num_batches += 1
        time.sleep(self._plan.batch_s)
        for ticket in tickets:
            if DEADLY in ticket.recipe.prompt:
                os.kill(os.getpid(), signal.SIGKILL)
            if REFUSED in ticket.recipe.prompt:
                raise ModelError(f"ticket {ticket.index} asks for what this engine refuses")
        groups = [pixels(ticket.recipe) for ticket in tickets]
        return lambda: [*groups]


def main(argument: str) -> int:
    """Serve until the run is over. Returns the exit status."""
    plan = ProducerPlan(**json.loads(argument))
    configure_logging(plan.name)
    config = ProduceConfig(
        connect=plan.connect,
        key=plan.key,
        name=plan.name,
        batch_images=plan.batch_images,
        batch_wait_s=plan.batch_wait_s,
        credit_groups=plan.credit_groups,
        trainer_timeout_s=plan.trainer_timeout_s,
    )
    service = ProducerService(config, LightEngine(plan))
    with ending_gently(service.drain) as asked:
        service.run()
    return 128 + signal.SIGTERM if asked() else 0


if __name__ == "__main__":
    run(lambda: main(sys.argv[1]))
