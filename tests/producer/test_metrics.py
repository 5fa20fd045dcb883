"""What a producer says of itself, against a real rank on the loopback and an engine in the test's hand."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry

from penstock.producer.metrics import ProducerMetrics
from penstock.protocol.links import LinkState
from penstock.telemetry.metric_table import PRODUCER
from tests.faults.programs import wait_until
from tests.producer.live_rank import RECIPE, LiveRank, RunningService, StubEngine

OpenRank = Callable[..., LiveRank]


class Scraped:
    """A running producer whose metrics can be read."""

    def __init__(self, rank: LiveRank, engine: StubEngine, **changes: object) -> None:
        self.running = RunningService(rank.socket.endpoint, engine, **changes)
        self._registry = CollectorRegistry()
        self._registry.register(ProducerMetrics(self.running.service).reading)

    def value(self, name: str, **labels: str) -> float | None:
        return self._registry.get_sample_value(f"penstock_producer_{name}", {"producer": "ann"} | labels)

    def by(self, label: str, name: str) -> dict[str, float]:
        names = (f"penstock_producer_{name}", f"penstock_producer_{name.removesuffix('_total')}")
        (family,) = [f for f in self._registry.collect() if f.name in names]
        return {sample.labels[label]: sample.value for sample in family.samples}


def test_tickets_are_counted_where_they_are(open_rank: OpenRank) -> None:
    rank, engine = open_rank(), StubEngine()
    engine.gate.clear()
    rank.plan(*range(100))
    scraped = Scraped(rank, engine, credit_groups=6)
    rank.run_until(engine.working.is_set)
    # Four fill the batch that is being made; two wait for the next.
    assert scraped.by("state", "tickets") == {"queued": 2, "running": 4, "waiting": 0, "sent": 0}
    assert scraped.value("credit_groups") == 6
    assert scraped.by("state", "links") == {state.name.lower(): 0 for state in LinkState} | {"ready": 1}
    assert scraped.value("groups_total") == 0
    engine.gate.set()
    rank.run_until(lambda: len(rank.delivered) >= 8)
    assert (scraped.value("groups_total") or 0) >= 8
    rank.say_bye()
    assert scraped.running.end() is None
    assert scraped.by("state", "tickets") == {"queued": 0, "running": 0, "waiting": 0, "sent": 0}
    assert scraped.by("state", "links")["gone"] == 1


def test_what_is_sent_and_not_acknowledged_is_counted_in_bytes_of_pixels(open_rank: OpenRank) -> None:
    rank, engine = open_rank(), StubEngine()
    engine.gate.clear()
    rank.plan(*range(4))
    scraped = Scraped(rank, engine)
    rank.run_until(engine.working.is_set)
    engine.gate.set()  # the rank hears nothing from here on, and so acknowledges nothing
    wait_until(lambda: scraped.value("unacknowledged_bytes") == 4 * RECIPE.nbytes, "all four are made")
    tickets = scraped.by("state", "tickets")
    assert tickets["sent"] + tickets["waiting"] == 4
    rank.run_until(lambda: scraped.value("unacknowledged_bytes") == 0)
    rank.say_bye()
    assert scraped.running.end() is None


def test_the_engine_s_work_is_told_as_it_knows_it(open_rank: OpenRank) -> None:
    rank, engine = open_rank(), StubEngine()
    scraped = Scraped(rank, engine)
    assert scraped.value("flops_total") is None
    assert scraped.value("flop_utilization_ratio") is None
    assert scraped.value("diversity_ratio") is None
    engine.work.images, engine.work.rejected, engine.work.seconds, engine.work.diversity = 12, 3, 4.5, 0.5
    engine.work.flops, engine.work.matrix_flops_per_s = 6e9, 1e9
    assert scraped.value("images_total") == 12
    assert scraped.value("images_rejected_total") == 3
    assert scraped.value("busy_seconds_total") == 4.5
    assert scraped.value("diversity_ratio") == 0.5
    assert scraped.value("flops_total") == 6e9
    assert scraped.value("matrix_flops_per_second") == 1e9
    assert (scraped.value("flop_utilization_ratio") or 0) > 0
    rank.run_until(lambda: bool(rank.machine.peers))
    rank.say_bye()
    assert scraped.running.end() is None


def test_what_a_rank_refuses_and_what_comes_garbled_is_counted_by_reason(open_rank: OpenRank) -> None:
    rank, engine = open_rank(), StubEngine()
    scraped = Scraped(rank, engine)
    rank.run_until(lambda: bool(rank.machine.peers))
    service = scraped.running.service
    service._hear(rank.socket.endpoint.encode(), [memoryview(b"\xc1")])
    with service._changed:
        service._machine._refused.counts_round("stale", rank.socket.endpoint)
    reasons = scraped.by("reason", "messages_rejected_total")
    assert reasons == {"malformed": 1, "stale": 1}
    rank.say_bye()
    assert scraped.running.end() is None


def test_the_info_names_the_producer_and_every_metric_is_there_from_the_beginning(open_rank: OpenRank) -> None:
    rank, engine = open_rank(), StubEngine()
    scraped = Scraped(rank, engine)
    families = {f.name + ("_total" if f.type == "counter" else ""): f for f in scraped._registry.collect()}
    assert set(families) == {metric.name for metric in PRODUCER}
    (info,) = families["penstock_producer_info"].samples
    assert (info.value, info.labels["producer"], info.labels["model"]) == (1, "ann", "stub")
    rank.run_until(lambda: bool(rank.machine.peers))
    rank.say_bye()
    assert scraped.running.end() is None
