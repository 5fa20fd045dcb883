"""What a rank says of itself to Prometheus: read from what may be looked at anyway, when somebody asks.

Nothing here runs unless somebody scrapes, and nothing on the way of the data knows of it.
"""

from penstock.consumer.filter_counts import FilterTotals
from penstock.consumer.prefetch import Prefetcher
from penstock.consumer.stream_look import StreamLook
from penstock.consumer.watching.observed import Observed
from penstock.protocol.fleet import PeerState
from penstock.protocol.ticket_table import TicketState
from penstock.telemetry.metric_table import TRAINER
from penstock.telemetry.metrics import AGES, Reading, RecentRate, Scrape, penstock_version


class RankMetrics:
    """Says a rank's figures.

    Args:
        observed: the rank, which need not have begun.
    """

    def __init__(self, observed: Observed) -> None:
        self._observed = observed
        self._skipped_before = observed.record.steps_skipped
        self._version = penstock_version()
        self._steps = RecentRate()

    @property
    def reading(self) -> Reading:
        """For the registry that shall have them."""
        return Reading(TRAINER, {"rank": str(self._observed.rank)}, self.say)

    def say(self, scrape: Scrape) -> None:
        """All that is known now."""
        observed = self._observed
        look = observed.stream.look()
        self._say_run(scrape)
        self._say_steps(scrape, look)
        _say_stream(scrape, look)
        _say_tickets(scrape, look)
        if observed.batches is not None:
            _say_batches(scrape, observed.batches)
        taken = observed.recorder.taken()
        scrape.stages("penstock_stage_duration_seconds", taken)
        if AGES in taken:
            scrape.durations("penstock_sample_age_seconds", taken[AGES])
        self._say_learning(scrape)

    def _say_run(self, scrape: Scrape) -> None:
        observed = self._observed
        scrape.say(
            "penstock_run_info",
            1,
            run_id=observed.folder.run_id,
            version=self._version,
            objective=observed.config.objective.name,
        )
        scrape.say("penstock_max_steps", observed.config.max_steps)
        scrape.say("penstock_last_step_timestamp_seconds", observed.stepped_at)

    def _say_steps(self, scrape: Scrape, look: StreamLook) -> None:
        observed = self._observed
        # Once: the training thread goes on meanwhile.
        steps = observed.steps
        done = steps - observed.first_step
        trained = done * observed.images_per_step
        scrape.say("penstock_step", steps)
        scrape.say("penstock_steps_total", done)
        scrape.say("penstock_steps_skipped_total", observed.record.steps_skipped - self._skipped_before)
        scrape.say("penstock_images_trained_total", trained)
        scrape.say("penstock_reuse_ratio", trained / look.stats.images if look.stats.images else None)
        if observed.flops_per_step is None:
            return
        scrape.say("penstock_flops_total", done * observed.flops_per_step)
        scrape.say("penstock_matrix_flops_per_second", observed.matrix_flops_per_s)
        scrape.say("penstock_flop_utilization_ratio", observed.flop_share(self._steps.per_s(done)))

    def _say_learning(self, scrape: Scrape) -> None:
        observed, record = self._observed, self._observed.record
        scrape.say("penstock_loss", observed.loss)
        if observed.rank == 0:  # the others have what stood in the checkpoint, and hear of nothing new
            for name, curve in {"penstock_knn_ratio": record.knn, "penstock_rankme": record.rankme}.items():
                scrape.say(name, curve[-1][1] if curve else None)


def _say_stream(scrape: Scrape, look: StreamLook) -> None:
    """What has come, and what is on its way."""
    scrape.say("penstock_images_received_total", look.stats.images)
    scrape.say("penstock_groups_received_total", look.stats.groups)
    scrape.say("penstock_received_bytes_total", look.stats.image_bytes)
    scrape.say("penstock_window_groups", look.window_groups)
    scrape.say("penstock_window_bytes", look.window_bytes)
    scrape.say("penstock_reserved_bytes", look.reserved_bytes)
    scrape.say("penstock_arrived_groups", look.arrived_groups)
    scrape.say("penstock_arrived_bytes", look.arrived_bytes)


def _say_tickets(scrape: Scrape, look: StreamLook) -> None:
    """Who has which tickets, and what went wrong with them."""
    tickets = {state.name.lower(): look.tickets.get(state, 0) for state in TicketState}
    scrape.say_each("penstock_tickets", "state", tickets)
    states = [peer.state for peer in look.peers]
    scrape.say_each("penstock_producers", "state", {state.value: states.count(state) for state in PeerState})
    scrape.say("penstock_credit_groups", look.credit_groups)
    scrape.say("penstock_held_tickets", look.held)
    scrape.say_each("penstock_messages_rejected_total", "reason", look.rejects)
    scrape.say_each("penstock_connections_refused_total", "reason", look.refused)
    scrape.say("penstock_leases_expired_total", look.stats.expired)
    scrape.say("penstock_tickets_hedged_total", look.stats.hedged)
    scrape.say("penstock_tickets_quarantined_total", look.stats.quarantined)


def _say_batches(scrape: Scrape, batches: Prefetcher) -> None:
    """What waits for the steps to come, and what they have waited."""
    look = batches.look()
    scrape.say("penstock_reservoir_groups", look.reservoir_groups)
    scrape.say("penstock_reservoir_bytes", look.reservoir_bytes)
    scrape.say("penstock_reservoir_capacity_groups", look.capacity_groups)
    scrape.say("penstock_batch_ready", int(look.is_ready))
    scrape.say("penstock_data_wait_seconds_total", look.wait_s)
    filtered = FilterTotals.of(batches.filter_counts.values) if batches.filter_counts else None
    if filtered:
        made, rejected = sum(filtered.made), sum(filtered.rejected)
        outcomes = {
            "kept": made - rejected - filtered.unsatisfied,
            "rejected": rejected,
            "unsatisfied": filtered.unsatisfied,
        }
        scrape.say_each("penstock_images_filtered_total", "outcome", outcomes)
