"""Whether a producer works: what a scheduler's probes are told, from what the producer knows anyway."""

from penstock.producer.service import ProducerService
from penstock.protocol.links import LinkState
from penstock.telemetry.health import Health

_HUNG_S = 300.0
"""A device that has finished nothing for less is not said to hang."""
_HUNG_BATCHES = 20
"""Nor one that has taken less than so many times as long as for its slowest batch so far: a size that is new to a
compiled backend takes minutes."""


def producer_health(service: ProducerService) -> Health:
    """How a producer is now.

    It is alive unless one of its threads has ended or its device hangs, which a restart may mend; that no trainer is
    there is no such thing. Before the first batch is finished nothing is known of how long one takes, and nothing is
    said to hang.
    """
    if (error := service.error) is not None:
        return Health(started=True, alive=False, ready=False, words=f"broken: {error!r:.200}")
    if not service.is_loaded:
        return Health(started=False, alive=True, ready=False, words="its model loads")
    work = service.work
    silent_s = work.status.unfinished_s
    if work.longest_s and silent_s > max(_HUNG_S, _HUNG_BATCHES * work.longest_s):
        words = f"its device hangs: nothing finished for {silent_s:.0f} s, at most {work.longest_s:.0f} s before"
        return Health(started=True, alive=False, ready=False, words=words)
    num_ranks = service.look().links.get(LinkState.READY, 0)
    if service.is_draining:
        return Health(started=True, alive=True, ready=False, words="it drains: it was asked to end")
    words = f"serves {num_ranks} ranks" if num_ranks else "no rank has answered"
    return Health(started=True, alive=True, ready=num_ranks > 0, words=words)
