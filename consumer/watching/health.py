"""Whether a rank works: what a scheduler's probes are told.

A rank is never said to be dead. It knows best itself whether it waits for producers, for other ranks or for nothing,
and ends by its own time limits; whoever killed one rank in a collective would end them all.
"""

from penstock.consumer.watching.observed import Observed
from penstock.telemetry.health import Health


def rank_health(observed: Observed) -> Health:
    """How a rank is now: ready once its batches are being prepared, for then it knows its producers."""
    is_ready = observed.batches is not None
    stand = f"step {observed.steps} of {observed.config.max_steps}"
    words = stand if is_ready else f"waits for its first producer at {stand}"
    return Health(started=True, alive=True, ready=is_ready, words=words)
