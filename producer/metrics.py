"""What a producer says of itself to Prometheus: read from what it knows anyway, when somebody asks."""

from penstock.producer.service import ProducerService
from penstock.producer.work import Work
from penstock.protocol.links import LinkState, ProducerLook
from penstock.protocol.tickets import Manifest
from penstock.telemetry.metric_table import PRODUCER
from penstock.telemetry.metrics import Reading, RecentRate, Scrape, penstock_version


class ProducerMetrics:
    """Says a producer's figures.

    Args:
        service: the producer.
    """

    def __init__(self, service: ProducerService) -> None:
        self._service = service
        self._version = penstock_version()
        self._flops = RecentRate()

    @property
    def reading(self) -> Reading:
        """For the registry that shall have them."""
        return Reading(PRODUCER, {"producer": self._service.name}, self.say)

    def say(self, scrape: Scrape) -> None:
        """All that is known now."""
        service = self._service
        _say_engine(scrape, service.manifest, self._version)
        self._say_work(scrape, service.work)
        _say_tickets(scrape, service.look())
        scrape.stages("penstock_producer_stage_duration_seconds", service.recorder.taken())

    def _say_work(self, scrape: Scrape, work: Work) -> None:
        scrape.say("penstock_producer_images_total", work.images)
        scrape.say("penstock_producer_groups_total", work.groups)
        scrape.say("penstock_producer_busy_seconds_total", work.busy_s)
        scrape.say("penstock_producer_diversity_ratio", work.diversity)
        scrape.say("penstock_producer_images_rejected_total", work.rejected)
        flops, most = work.flops, work.matrix_flops_per_s
        if flops is None:
            return
        rate = self._flops.per_s(flops)
        scrape.say("penstock_producer_flops_total", flops)
        scrape.say("penstock_producer_matrix_flops_per_second", most)
        scrape.say("penstock_producer_flop_utilization_ratio", rate / most if most else None)


def _say_engine(scrape: Scrape, manifest: Manifest, version: str) -> None:
    """Who makes the images."""
    scrape.say(
        "penstock_producer_info",
        1,
        model=manifest.model,
        model_digest=manifest.model_digest,
        device=manifest.device,
        dtype=manifest.dtype,
        backend=manifest.backend,
        version=version,
    )


def _say_tickets(scrape: Scrape, look: ProducerLook) -> None:
    """What is in hand, for whom, and what was refused."""
    tickets = {"queued": look.queued, "running": look.running, "waiting": look.waiting, "sent": look.sent}
    scrape.say_each("penstock_producer_tickets", "state", tickets)
    scrape.say("penstock_producer_unacknowledged_bytes", look.unacknowledged_bytes)
    scrape.say("penstock_producer_credit_groups", look.credit_groups)
    scrape.say_each(
        "penstock_producer_links", "state", {state.name.lower(): look.links.get(state, 0) for state in LinkState}
    )
    scrape.say_each("penstock_producer_messages_rejected_total", "reason", look.rejects)
