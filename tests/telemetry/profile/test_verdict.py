"""Which side bounds a run. Expected values follow from the rates of the fixtures by hand: min(e·P, e·W, H, T)."""

import dataclasses
from typing import Any

import pytest

from penstock.telemetry.profile.measurements import Rate
from penstock.telemetry.profile.stragglers import stragglers
from penstock.telemetry.profile.summary import analyse
from tests.telemetry.profile.measured import measured, producer, rate, together

FAST = {"fleet": rate(900.0), "wire": rate(2000.0), "host": rate(8000.0), "trainer": rate(5000.0)}
"""e = 2: e·P = 1,800, e·W = 4,000."""
FULL_OF_ARRIVED = (1.0, 1.0, 1.0, 0.0)


def queues(*shares: float) -> dict[str, Any]:
    """Queues that are so full all the time, in the order of the data's way."""
    seen = together(1.0, 1.0, 0.0)
    filled = zip(seen.queues, shares, strict=True)
    return {
        "queues": tuple(dataclasses.replace(q, filled=(round(share * q.capacity),) * 4) for q, share in filled),
    }


BOUND = [
    ("producer-bound", ("producers",), {}),
    ("wire-bound", ("wire",), {"wire": rate(150.0), "together": together(295.0, 148.0, 0.7)}),
    ("host-bound", ("host",), {**FAST, "host": rate(300.0), "together": together(295, 148, 0.9, **queues(0, 1, 1, 0))}),
    ("trainer-bound", ("trainer",), {**FAST, "trainer": rate(300.0), "together": together(295.0, 148.0, 0.002)}),
    ("balanced", ("producers", "trainer"), {"trainer": rate(430.0), "together": together(390.0, 195.0, 0.03)}),
]


@pytest.mark.parametrize(("kind", "sides", "changes"), BOUND)
def test_the_smallest_capacity_bounds_the_run(kind: str, sides: tuple[str, ...], changes: dict[str, Any]) -> None:
    verdict = analyse(measured(**changes)).verdict
    assert (verdict.kind, verdict.sides) == (kind, sides)
    assert (verdict.contradiction, verdict.shortfall) == (None, None)
    assert verdict.confidence >= 0.6
    assert kind.partition("-")[0].upper() in verdict.headline


@pytest.mark.parametrize(
    ("trainer", "kind"), [(439.0, "balanced"), (441.0, "producer-bound"), (363.0, "trainer-bound")]
)
def test_two_capacities_within_a_tenth_are_balanced(trainer: float, kind: str) -> None:
    verdict = analyse(measured(trainer=rate(trainer), together=together(360.0, 180.0, 0.03))).verdict
    assert verdict.kind == kind  # e·P = 400


def test_the_nearer_the_next_capacity_and_the_wider_the_spread_the_less_sure() -> None:
    sure = [
        analyse(measured(trainer=rate(trainer, spread))).verdict.confidence
        for trainer, spread in ((1000.0, 0.01), (444.0, 0.1), (444.0, 0.25))
    ]
    assert sure[0] > sure[1] > sure[2]


def test_the_run_that_points_elsewhere_is_told_of_and_lowers_the_confidence() -> None:
    # By the ablations producer-bound; but its trainer never waited.
    summary = analyse(measured(together=together(398.0, 199.0, 0.001)))
    verdict = summary.verdict
    assert verdict.kind == "producer-bound"
    assert verdict.contradiction is not None
    assert "the run, waits and queues point at the trainer" in verdict.contradiction
    assert verdict.sureness == "low"
    assert summary.next_step.text.startswith("First profile again")


@pytest.mark.parametrize(
    ("busy", "wire", "kind", "agrees"),
    [
        (0.99, 2000.0, "producer-bound", True),
        (0.5, 2000.0, "producer-bound", False),
        (0.99, 150.0, "wire-bound", False),
        (0.5, 150.0, "wire-bound", True),
    ],
)
def test_engines_at_work_speak_for_the_producers_and_idle_ones_for_the_wire(
    busy: float, wire: float, kind: str, agrees: bool
) -> None:
    fleet = (producer("a", 100.0, busy_share=busy), producer("b", 100.0, busy_share=busy))
    verdict = analyse(measured(producers=fleet, wire=rate(wire))).verdict
    assert verdict.kind == kind
    assert (verdict.contradiction is None) == agrees


def test_a_run_below_all_capacities_says_by_how_much_and_that_cores_are_shared() -> None:
    seen = dataclasses.replace(together(240.0, 120.0, 0.6), trained=rate(240.0, busy_share=0.99))
    fleet = (producer("a", 100.0, is_local=True), producer("b", 100.0, is_local=True))
    summary = analyse(measured(together=seen, producers=fleet))
    assert summary.verdict.shortfall == (
        "The run stays 40% below what every part could do alone: the 2 cores of the trainer's machine were 99% busy, "
        "and producers and trainer share them."
    )
    assert summary.verdict.confidence < 0.8
    assert summary.next_step.text == (
        "Give producers and trainer cores of their own: up to 1.7 times as fast, 400 images/s. After that: add 3 "
        "producers on cores of their own: 2.5 times as fast, 1,000 images/s; beyond 5 the trainer bounds (T)."
    )
    assert summary.next_step.gain == pytest.approx(400 / 240)


def test_a_run_beyond_its_smallest_capacity_doubts_the_measurement_of_that() -> None:
    summary = analyse(measured(together=together(600.0, 300.0, 0.4)))
    verdict = summary.verdict
    assert any("measured too low" in reason for reason in verdict.because)
    assert verdict.confidence < 0.8
    assert verdict.caveats == (
        "All together went 1.5 times as fast as the producers alone: e·P was measured too low, and what rests on it "
        "does not hold.",
    )
    assert summary.next_step.text.startswith("First profile again, longer (--seconds)")


def test_what_lay_in_buffers_is_no_rate() -> None:
    # 398 trained on in a second, but only 100 came, which e = 2 makes 200.
    summary = analyse(measured(together=together(398.0, 100.0, 0.6)))
    assert summary.achieved is not None
    assert summary.achieved.images_per_s == pytest.approx(200.0)


TOO_LITTLE = [
    ({"trainer": None}, "The trainer could not be measured alone."),
    ({"fleet": None, "trainer": None}, "The producers and the trainer could not be measured alone."),
    ({"together": None}, "All together was not measured."),
    ({"together": together(50.0, 25.0, 0.6)}, "8 steps were done all together; a verdict needs at least 10."),
    ({"together": together(398.0, 0.0, 0.6)}, "Not one image came while all went together"),
    ({"wire": Rate(images=0, seconds=10.0)}, "Not one image passed in the phase of the wire alone."),
    ({"fleet": rate(200.0, 0.6)}, "e·P is known to ±"),
]


@pytest.mark.parametrize(("changes", "evidence"), TOO_LITTLE)
def test_too_little_is_not_enough_data(changes: dict[str, Any], evidence: str) -> None:
    summary = analyse(measured(**changes))
    assert (summary.verdict.kind, summary.verdict.confidence) == ("not enough data", 0.0)
    assert summary.verdict.evidence.startswith(evidence)
    assert "--seconds" in summary.next_step.text


def test_the_interval_of_a_rate_is_students() -> None:
    # Ten windows of 200 ± 2: standard deviation 2·sqrt(10/9), t(9) = 2.262; e = 2 doubles all.
    part = analyse(measured()).capacities[0]
    assert part.images_per_s == pytest.approx(400.0)
    assert part.half_width == pytest.approx(2 * 2.262 * 2 * (10 / 9) ** 0.5 / 10**0.5, rel=1e-3)


NEXT = [
    # e·p = 200 a producer, T = 1,000: five are enough, and reached / smallest = 398 / 400 is kept.
    (
        {},
        "Add 3 producers on devices of their own: 2.5 times as fast, 995 images/s; beyond 5 the trainer bounds (T). Or "
        "use each image 5 times (--reservoir.reuse)",
    ),
    # `fresh` uses a group once, whatever reuse says.
    (
        {"policy": "fresh", "max_reuse": 1, "min_reuse": 1, "together": together(199.0, 199.0, 0.8)},
        "Add 6 producers on devices of their own: 4.0 times as fast, 796 images/s; beyond 10 the trainer bounds (T). "
        "Or use each image 5 times (--reservoir.policy fixed --reservoir.reuse)",
    ),
    # T = 300 a rank, e·P = 1,800: six ranks; 330 / 900 needs one use, and 330 / 900 one of two producers.
    (
        {**FAST, "trainer": rate(300.0), "together": together(300.0, 150.0, 0.0)},
        "Add 3 ranks on devices of their own, or take a faster device: 4.0 times as fast, 1,200 images/s; beyond 6 "
        "ranks the producers bound (e·P). To keep it fed, "
        "1 use of each image instead of 2, so fresher ones, or 1 producer instead of 2 would do",
    ),
    (
        {"wire": rate(150.0, nbytes=20_000_000), "together": together(300.0, 150.0, 0.7)},
        "Send less (producers' --codec jpeg) or take a faster link (it carried 2.0 MB/s): at most 1.3 times as fast, "
        "400 images/s, where the producers bound (e·P).",
    ),
    (
        {"trainer": rate(400.0), "together": together(400.0, 200.0, 0.03)},
        "Add to both sides in step: twice the producers and the trainer make it 2.0 times as fast, 800 images/s; "
        "to one side alone brings 0% at most.",
    ),
]


@pytest.mark.parametrize(("changes", "text"), NEXT)
def test_the_next_step_says_what_it_should_bring(changes: dict[str, Any], text: str) -> None:
    assert analyse(measured(**changes)).next_step.text.startswith(text)


def test_producers_that_come_or_go_make_the_rates_those_of_no_one_fleet() -> None:
    whole = analyse(measured()).verdict
    summary = analyse(measured(left=("bob",), joined=("carl", "dora")))
    assert summary.verdict.caveats == (
        "Producer bob left while it was measured: the rates are of no one fleet.",
        "Producers carl, dora joined while others were measured: the rates are of no one fleet.",
    )
    assert summary.verdict.confidence == pytest.approx(whole.confidence / 4, abs=0.01)
    assert summary.next_step.gain is None
    assert "while no producer comes or goes" in summary.next_step.text
    gone = analyse(measured(left=("bob",), together=together(0.0, 0.0, 1.0))).verdict
    assert (gone.kind, len(gone.caveats)) == ("not enough data", 1)


@pytest.mark.parametrize(("window", "busy", "is_narrow"), [(24, 0.4, True), (24, 0.95, False), (96, 0.4, False)])
def test_a_window_that_keeps_engines_idle_is_told_from_slow_engines(window: int, busy: float, is_narrow: bool) -> None:
    # Two producers would hold 64 tickets; 23 are out all the time.
    seen = together(398.0, 199.0, 0.6)
    tickets, arrived, *rest = seen.queues
    tickets = dataclasses.replace(tickets, filled=(23,) * 4)
    arrived = dataclasses.replace(arrived, capacity=window, filled=(0,) * 4)
    seen = dataclasses.replace(seen, queues=(tickets, arrived, *rest))
    fleet = tuple(producer(name, 100.0, busy_share=busy) for name in "ab")
    summary = analyse(measured(together=seen, producers=fleet))
    assert summary.verdict.kind == "producer-bound"
    assert bool(summary.verdict.caveats) == is_narrow
    expected = "Raise --stream.window-groups from 24 to 64" if is_narrow else ""
    assert summary.next_step.text.startswith(expected)
    assert ("window-groups" in summary.next_step.text) == is_narrow


def test_who_looks_real_images_up_counts_for_no_engine_of_the_fleet() -> None:
    # Two engines at work all the time, and a server of real images that hardly ever is, with a tenth of the images.
    engines = tuple(producer(name, 90.0, busy_share=0.98) for name in "ab")
    served = producer("photos", 20.0, busy_share=0.02, generates=False)
    summary = analyse(measured(producers=(*engines, served)))
    assert summary.verdict.contradiction is None
    assert summary.prediction is not None
    assert (summary.prediction.producers, summary.prediction.images_per_s_each) == (2, pytest.approx(200.0))
    assert stragglers(summary.measurements) == []
