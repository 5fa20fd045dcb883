"""Figures as Prometheus sees them: what its own parsers read back, by hand-made numbers."""

import subprocess
from collections.abc import Iterable
from shutil import which

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric as Read
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from penstock.telemetry.metric_table import PRODUCER, PRODUCER_LABELS, TRAINER, TRAINER_LABELS, Metric
from penstock.telemetry.metrics import Reading, RecentRate, Scrape
from penstock.telemetry.recorder import Recorder

TABLE = (
    Metric("fox_jumps_total", "counter", "Jumps.", ("dog",)),
    Metric("fox_speed_ratio", "gauge", "Share of the fastest."),
    Metric("fox_jump_seconds", "histogram", "How long.", ("stage",)),
)
SECOND = 1_000_000_000


def _registry(fill: object) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(Reading(TABLE, {"wood": "north"}, fill))  # type: ignore[arg-type]
    return registry


def _by_name(families: Iterable[Read]) -> dict[str, Read]:
    return {family.name: family for family in families}


def test_values_are_read_back_with_their_types_and_labels() -> None:
    def fill(scrape: Scrape) -> None:
        scrape.say_each("fox_jumps_total", "dog", {"lazy": 3, 'q"\n\\': 1})
        scrape.say("fox_speed_ratio", 0.25)

    read = _by_name(read_text(generate_latest(_registry(fill)).decode()))
    assert (read["fox_jumps"].type, read["fox_speed_ratio"].type, read["fox_jump_seconds"].type) == (
        "counter",
        "gauge",
        "histogram",
    )
    jumps = {sample.labels["dog"]: sample for sample in read["fox_jumps"].samples}
    assert {dog: sample.value for dog, sample in jumps.items()} == {"lazy": 3.0, 'q"\n\\': 1.0}
    assert jumps["lazy"].labels == {"wood": "north", "dog": "lazy"}
    assert jumps["lazy"].name == "fox_jumps_total"
    (speed,) = read["fox_speed_ratio"].samples
    assert (speed.value, speed.labels) == (0.25, {"wood": "north"})


def test_what_is_not_said_is_left_out_and_keeps_its_type() -> None:
    read = _by_name(read_text(generate_latest(_registry(lambda scrape: scrape.say("fox_speed_ratio", None))).decode()))
    assert set(read) == {"fox_jumps", "fox_speed_ratio", "fox_jump_seconds"}
    assert not any(family.samples for family in read.values())


def test_a_histogram_counts_upwards_and_holds_count_and_sum() -> None:
    recorder = Recorder()
    # One in the first bucket, exactly on a bound, two between 0.1 and 0.3 s, one beyond all.
    for seconds in (0.0001, 0.25, 0.2, 1_000_000):
        recorder.observe("decode", int(seconds * SECOND))
    recorder.observe("sample_age", 5 * SECOND)
    registry = _registry(lambda scrape: scrape.stages("fox_jump_seconds", recorder.taken()))
    for text, parse in (
        (generate_latest(registry), read_text),
        # The stricter of the two: it refuses buckets that fall, bounds that are no canonical numbers, a lacking +Inf.
        (openmetrics.generate_latest(registry), read_openmetrics),
    ):
        samples = _by_name(parse(text.decode()))["fox_jump_seconds"].samples
        assert {sample.labels["stage"] for sample in samples} == {"decode"}
        buckets = {float(s.labels["le"]): s.value for s in samples if s.name == "fox_jump_seconds_bucket"}
        assert (buckets[0.0001], buckets[0.1], buckets[0.3], buckets[100.0]) == (1, 1, 3, 3)
        assert buckets[float("inf")] == 4
        rest = {s.name: s.value for s in samples if "le" not in s.labels}
        assert rest["fox_jump_seconds_count"] == 4
        assert rest["fox_jump_seconds_sum"] == pytest.approx(1_000_000.4501)


def test_a_value_of_no_metric_or_of_another_type_is_a_defect() -> None:
    scrape = Scrape(TABLE, {"wood": "north"})
    with pytest.raises(KeyError):
        scrape.say("fox_naps_total", 1)
    with pytest.raises(KeyError):
        scrape.say("fox_jumps_total", 1)
    with pytest.raises(TypeError):
        scrape.say("fox_jump_seconds", 1, stage="decode")
    with pytest.raises(TypeError):
        scrape.durations("fox_speed_ratio", Recorder().taken().get("none"))  # type: ignore[arg-type]


def test_nothing_is_looked_at_before_somebody_asks() -> None:
    looks: list[Scrape] = []
    registry = _registry(looks.append)
    assert looks == []
    generate_latest(registry)
    assert len(looks) == 1


def test_a_rate_is_of_the_last_minute_however_often_somebody_looks() -> None:
    rate = RecentRate(60.0, now=0.0)
    assert rate.per_s(0.0, now=0.0) == 0.0
    assert rate.per_s(100.0, now=10.0) == 10.0, "since the beginning"
    for tenths in range(100, 1200):  # 10 a second until 60 s, then 30 a second
        now = tenths / 10
        count = 10 * now if now <= 60 else 600 + 30 * (now - 60)
        last = rate.per_s(count, now=now)
    assert last == pytest.approx(30.0, rel=0.05)
    assert len(rate._looks) <= 62
    assert rate.per_s(count, now=10_000.0) < 1.0, "a rare look: since the one before"


@pytest.mark.parametrize(("table", "own"), [(TRAINER, TRAINER_LABELS), (PRODUCER, PRODUCER_LABELS)])
def test_names_follow_the_conventions(table: tuple[Metric, ...], own: tuple[str, ...]) -> None:
    """As Prometheus' own linter has them; here without it: counters alone end in _total, and base units alone occur."""
    names = [metric.name for metric in table]
    assert len(set(names)) == len(names)
    for metric in table:
        assert metric.name.startswith("penstock_")
        assert metric.name.endswith("_total") == (metric.type == "counter"), metric.name
        assert not set(metric.name.split("_")) & {"ms", "milliseconds", "minutes", "mb", "kb", "percent", "count"}
        assert not set(metric.labels) & {*own, "le"}
        assert metric.help.endswith(".")
        assert "|" not in metric.help


@pytest.mark.skipif(which("promtool") is None, reason="promtool is not installed: apt-get install prometheus")
@pytest.mark.parametrize(("table", "own"), [(TRAINER, TRAINER_LABELS), (PRODUCER, PRODUCER_LABELS)])
def test_promtool_finds_nothing_to_say_of_them(table: tuple[Metric, ...], own: tuple[str, ...]) -> None:
    recorder = Recorder()
    recorder.observe("step", SECOND)

    def fill(scrape: Scrape) -> None:
        for metric in table:
            labels = dict.fromkeys(metric.labels, "x")
            if metric.type == "histogram":
                scrape.durations(metric.name, recorder.taken()["step"], **labels)
            else:
                scrape.say(metric.name, 1.0, **labels)

    registry = CollectorRegistry()
    registry.register(Reading(table, dict.fromkeys(own, "0"), fill))
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=generate_latest(registry), capture_output=True, timeout=60
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
