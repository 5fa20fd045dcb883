"""Every metric that a trainer and a producer serve, as data: whoever serves them fills it in, docs/metrics.md shows it.

Names and units follow Prometheus: base units, `_total` for counters, a ratio from 0 to 1. Counters count one life of a
process: they begin at 0 when it starts, also where a run goes on from a checkpoint. So `rate` and `increase` see an
ordinary reset, and a step that is done again after a resume, which was really done twice, counts twice.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric; one row of the documentation."""

    name: str
    """As it is scraped, but that a histogram's samples have `_bucket`, `_sum` and `_count` behind it."""
    type: Literal["counter", "gauge", "histogram"]
    help: str
    """What it says, with its unit where that is no plain number."""
    labels: tuple[str, ...] = ()
    """Beside those that every metric of its side has."""


TRAINER_LABELS: Final = ("rank",)
"""That every metric of a trainer has."""
PRODUCER_LABELS: Final = ("producer",)
"""That every metric of a producer has."""

STAGES_HELP: Final = "Time that a stage of this process has taken, in seconds; the stages are listed below."

TRAINER: Final = (
    Metric(
        "penstock_run_info",
        "gauge",
        "Always 1; its labels say which run it is.",
        ("run_id", "version", "objective"),
    ),
    # --- steps
    Metric("penstock_steps_total", "counter", "Optimizer steps done in this life."),
    Metric("penstock_step", "gauge", "Optimizer steps done in all lives of the run: where it stands."),
    Metric("penstock_max_steps", "gauge", "Optimizer steps that the run shall have."),
    Metric(
        "penstock_steps_skipped_total",
        "counter",
        "Steps that changed nothing, as their gradients were no finite numbers.",
    ),
    Metric(
        "penstock_last_step_timestamp_seconds",
        "gauge",
        "When the last step was done, in seconds since the epoch; when the trainer began, before the first.",
    ),
    Metric("penstock_images_trained_total", "counter", "Images that this rank has trained on, each use counted."),
    Metric("penstock_data_wait_seconds_total", "counter", "Time that the training thread has waited for its batch."),
    Metric("penstock_stage_duration_seconds", "histogram", STAGES_HELP, ("stage",)),
    Metric(
        "penstock_sample_age_seconds",
        "histogram",
        "Age of the groups of each batch, from their arrival to the step that uses them.",
    ),
    Metric("penstock_reuse_ratio", "gauge", "Images trained on per image received, in this life."),
    # --- the stream
    Metric("penstock_images_received_total", "counter", "Images that have come from producers, whole."),
    Metric("penstock_groups_received_total", "counter", "Groups that have come from producers, whole."),
    Metric("penstock_received_bytes_total", "counter", "Bytes of these groups as they travelled."),
    Metric(
        "penstock_tickets",
        "gauge",
        "Tickets whose group has not been delivered: planned, issued, running, buffered or quarantined.",
        ("state",),
    ),
    Metric(
        "penstock_producers",
        "gauge",
        "Producers that are connected: warming, ready, suspect, stalled or draining.",
        ("state",),
    ),
    Metric("penstock_credit_groups", "gauge", "Tickets that all producers together would hold."),
    Metric("penstock_held_tickets", "gauge", "Tickets in producers' hands; a hedged one counts twice."),
    Metric("penstock_window_groups", "gauge", "Most groups that may be asked for, or here and not taken, at a time."),
    Metric("penstock_window_bytes", "gauge", "Most bytes of them."),
    Metric("penstock_reserved_bytes", "gauge", "Bytes of the groups that are asked for, or here and not taken."),
    Metric("penstock_arrived_groups", "gauge", "Groups that are here and wait to enter the reservoir."),
    Metric("penstock_arrived_bytes", "gauge", "Bytes of them."),
    Metric("penstock_reservoir_groups", "gauge", "Groups in the reservoir."),
    Metric("penstock_reservoir_bytes", "gauge", "Bytes of them."),
    Metric("penstock_reservoir_capacity_groups", "gauge", "Groups that the reservoir can keep."),
    Metric("penstock_batch_ready", "gauge", "1 where the next step's batch is ready, else 0."),
    # --- what goes wrong
    Metric(
        "penstock_messages_rejected_total",
        "counter",
        "Messages of producers that were dropped, by reason: the words of docs/protocol.md.",
        ("reason",),
    ),
    Metric(
        "penstock_connections_refused_total",
        "counter",
        "Connections that were not let in or were hung up on, by reason: the words of docs/protocol.md.",
        ("reason",),
    ),
    Metric("penstock_leases_expired_total", "counter", "Attempts that ran out of their lease or their deadline."),
    Metric("penstock_tickets_hedged_total", "counter", "Tickets that were handed to a second producer."),
    Metric("penstock_tickets_quarantined_total", "counter", "Tickets that nobody could make, and that got a stand-in."),
    Metric(
        "penstock_images_filtered_total",
        "counter",
        "Images that a filter has judged: kept, rejected, or unsatisfied, which were kept for want of better ones. "
        "Only where the run filters.",
        ("outcome",),
    ),
    # --- learning
    Metric(
        "penstock_loss",
        "gauge",
        "The last loss that was looked at, mean over the ranks; NaN or infinite where training goes wrong.",
    ),
    Metric("penstock_knn_ratio", "gauge", "kNN accuracy of the last online evaluation. Rank 0 only."),
    Metric("penstock_rankme", "gauge", "RankMe of the last online evaluation. Rank 0 only."),
    # --- arithmetic
    Metric("penstock_flops_total", "counter", "Floating point operations of this rank's steps; where they are known."),
    Metric(
        "penstock_matrix_flops_per_second",
        "gauge",
        "What large matrix products reach on this rank's device; where it is known.",
    ),
    Metric(
        "penstock_flop_utilization_ratio",
        "gauge",
        "Operations of the last minute as a share of what matrix products would have done in it.",
    ),
)
"""What each rank serves."""

PRODUCER: Final = (
    Metric(
        "penstock_producer_info",
        "gauge",
        "Always 1; its labels say what the producer is.",
        ("model", "model_digest", "device", "dtype", "backend", "version"),
    ),
    # --- work
    Metric("penstock_producer_images_total", "counter", "Images that have been made."),
    Metric("penstock_producer_groups_total", "counter", "Groups that have been made."),
    Metric(
        "penstock_producer_busy_seconds_total",
        "counter",
        "Time in which the engine was busy, with what is not finished yet too.",
    ),
    Metric("penstock_producer_stage_duration_seconds", "histogram", STAGES_HELP, ("stage",)),
    Metric(
        "penstock_producer_flops_total",
        "counter",
        "Floating point operations of denoiser and decoder, padded rows included; where the engine knows them.",
    ),
    Metric(
        "penstock_producer_matrix_flops_per_second",
        "gauge",
        "What large matrix products reach on the device; where it is known.",
    ),
    Metric(
        "penstock_producer_flop_utilization_ratio",
        "gauge",
        "Operations of the last minute as a share of what matrix products would have done in it.",
    ),
    Metric(
        "penstock_producer_diversity_ratio",
        "gauge",
        "Mean distance between the images of a prompt as a share of that between prompts, of late.",
    ),
    Metric(
        "penstock_producer_images_rejected_total",
        "counter",
        "Images that were made and that a filter did not keep.",
    ),
    # --- tickets
    Metric(
        "penstock_producer_tickets",
        "gauge",
        "Tickets in hand: queued, running, waiting for the link, or sent and not acknowledged.",
        ("state",),
    ),
    Metric("penstock_producer_unacknowledged_bytes", "gauge", "Bytes of pixels of the waiting and the sent."),
    Metric("penstock_producer_credit_groups", "gauge", "Tickets that it would hold for all ranks together."),
    Metric(
        "penstock_producer_links",
        "gauge",
        "Ranks that it talks with: hello, warming, ready, draining, gone or rejected.",
        ("state",),
    ),
    # --- what goes wrong
    Metric(
        "penstock_producer_messages_rejected_total",
        "counter",
        "Messages that a rank refused, or that came from one garbled, by reason: the words of docs/protocol.md.",
        ("reason",),
    ),
)
"""What each producer serves."""


def rows(metrics: Sequence[Metric], own_labels: Sequence[str]) -> Iterator[str]:
    """The table of docs/metrics.md, line by line."""
    yield "| metric | type | labels | what it says |"
    yield "| --- | --- | --- | --- |"
    for metric in metrics:
        labels = ", ".join(f"`{label}`" for label in (*own_labels, *metric.labels))
        yield f"| `{metric.name}` | {metric.type} | {labels} | {metric.help} |"
