"""What the trackers draw of stream and process: the figures that metrics and profile have, as curves over the steps."""

import time

from penstock.consumer.filter_counts import FilterTotals
from penstock.consumer.meter import Totals
from penstock.consumer.watching.observed import Observed
from penstock.telemetry.metrics import AGES


def of_stream(totals: Totals) -> dict[str, float]:
    """Of all ranks since the beginning of the run, by name."""
    filtered = FilterTotals.of(totals.filter_counts)
    return {
        "stream/images_made": totals.images_made,
        "stream/images_made_per_s": totals.made_per_s,
        "stream/images_trained_per_s": totals.trained_per_s,
        "stream/received_bytes": totals.bytes_received,
        "stream/reuse": totals.reuse,
        "stream/data_wait": totals.data_wait,
        "stream/producers": totals.producers,
        "stream/messages_rejected": totals.rejected,
        "stream/leases_expired": totals.expired,
        "stream/tickets_hedged": totals.hedged,
        "stream/tickets_quarantined": totals.quarantined,
        **({"stream/rejected": filtered.rejected_fraction} if filtered else {}),
    }


class Figures:
    """Of one rank, since the last time that somebody asked.

    Args:
        observed: the rank.
    """

    def __init__(self, observed: Observed) -> None:
        self._observed = observed
        self._taken: dict[str, tuple[int, float]] = {}
        self._steps = observed.steps
        self._asked_at = time.monotonic()

    def since_last(self) -> dict[str, float]:
        """Mean seconds of each stage as `time/STAGE_s`, ages, what is in memory, and the share of the arithmetic."""
        figures = self._stages()
        stream, batches = self._observed.stream.look(), self._observed.batches
        figures["stream/arrived_groups"] = stream.arrived_groups
        figures["stream/held_tickets"] = stream.held
        if batches is not None:
            figures["stream/reservoir_groups"] = batches.look().reservoir_groups
        return figures | self._arithmetic()

    def _stages(self) -> dict[str, float]:
        figures: dict[str, float] = {}
        for stage, taken in self._observed.recorder.taken().items():
            count, seconds = self._taken.get(stage, (0, 0.0))
            if taken.count > count:
                name = "stream/sample_age_s" if stage == AGES else f"time/{stage}_s"
                figures[name] = (taken.seconds - seconds) / (taken.count - count)
            self._taken[stage] = taken.count, taken.seconds
        return figures

    def _arithmetic(self) -> dict[str, float]:
        observed, now = self._observed, time.monotonic()
        steps, seconds = observed.steps - self._steps, now - self._asked_at
        self._steps, self._asked_at = observed.steps, now
        share = observed.flop_share(steps / seconds) if seconds else None
        return {} if share is None else {"train/flop_share": share}
