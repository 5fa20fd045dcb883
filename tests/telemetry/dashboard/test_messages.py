"""What a page is told: all that it needs, in strict JSON, and bounded whatever the run has."""

import json
import math
from collections import Counter
from types import MappingProxyType

from penstock.telemetry.dashboard import messages
from penstock.telemetry.dashboard.rate_history import RatePoint
from penstock.telemetry.run_view import EventView
from tests.telemetry.views import group, producer, run_view


def test_the_figures_are_the_views_own() -> None:
    shown = run_view(340, rejects=MappingProxyType(Counter(checksum=3)))
    told = json.loads(messages.figures(shown))
    assert told["step"] == 340
    assert told["run_id"] == shown.run_id
    assert told["rejects"] == {"checksum": 3}
    assert told["verdict"] == {
        "side": "balanced",
        "evidence": shown.verdict.evidence,
        "next_step": shown.verdict.next_step,
    }
    assert told["queues"][2] == {"name": "reservoir", "filled": 231, "capacity": 256, "nbytes": 5_677_056}
    assert told["stages"]["forward"]["p95_s"] == 0.06
    assert told["producers_by_state"] == {"ready": 2}
    assert "groups" not in told


def test_producers_in_trouble_come_first_and_a_large_fleet_is_cut_behind_them() -> None:
    fleet = [producer(f"gpu-{number}") for number in range(500)]
    fleet[300] = producer("gpu-300", "suspect")
    fleet[400] = producer("gpu-400", "gone")
    told = json.loads(messages.figures(run_view(producers=fleet)))
    names = [row["name"] for row in told["producers"]]
    assert names[:4] == ["gpu-400", "gpu-300", "gpu-0", "gpu-1"]
    assert names.index("gpu-10") == names.index("gpu-9") + 1
    assert (len(names), told["producers_left_out"]) == (200, 300)
    assert told["producers_by_state"] == {"gone": 1, "suspect": 1, "ready": 498}


def test_what_is_no_number_is_null() -> None:
    told = json.loads(
        messages.figures(
            run_view(made_per_s=math.nan, trained_per_s=math.inf, producers=[producer("a", p50_s=math.nan)])
        )
    )
    assert told["made_per_s"] is None
    assert told["trained_per_s"] is None
    assert told["producers"][0]["p50_s"] is None
    curves = json.loads(messages.learning(run_view(loss=[(1, math.nan), (2, 1 / 3)], knn=[])))
    assert (curves["loss"], curves["knn"]) == ([[1, None], [2, 0.3333333]], [])


def test_a_time_of_day_keeps_its_seconds() -> None:
    told = json.loads(messages.figures(run_view(at=1_794_000_123.456, seconds=987_654.0)))
    assert told["at"] == 1_794_000_123.456
    assert told["seconds"] == 987_654


def test_a_flood_of_log_lines_is_cut() -> None:
    events = [EventView(at=float(n), is_warning=False, text=f"{n} " + "word " * 500) for n in range(1000)]
    told = json.loads(messages.figures(run_view(events=events)))["events"]
    assert [event["at"] for event in told] == list(range(950, 1000))
    assert max(len(event["text"]) for event in told) <= 400


def test_a_group_is_told_with_its_images_and_a_prompt_of_some_length() -> None:
    told = json.loads(messages.group(group(7, num_images=20, side=8, prompt="<b>&amp; " + "word " * 1000)))
    assert (told["index"], told["num_images"], told["height"], told["width"]) == (7, 20, 8, 8)
    assert len(told["images"]) == 12
    assert told["prompt"].startswith("<b>&amp; word")  # text stays text: the page never reads it as markup
    assert len(told["prompt"]) <= 600


def test_a_long_prompt_without_blanks_is_cut_and_not_lost() -> None:
    assert json.loads(messages.group(group(7, prompt="雪" * 700)))["prompt"] == "雪" * 599 + "…"
    assert json.loads(messages.group(group(7, prompt="雪" * 600)))["prompt"] == "雪" * 600


def test_no_message_has_a_line_break_that_would_end_it_early() -> None:
    shown = run_view(events=[EventView(at=0.0, is_warning=False, text="one\ntwo\r\n\ndata: three")], waiting_for="a\nb")
    for told in (messages.figures(shown), messages.group(group(1, prompt="a\n\nevent: b\n"))):
        assert "\n" not in told
        assert "\r" not in told


def test_rates_are_columns() -> None:
    told = json.loads(messages.rates([RatePoint(1.04, 69.61234567, 1500.0, 0.03), RatePoint(2.0, 70.0, 1501.0, 0.02)]))
    assert told == {
        "seconds": [1.0, 2.0],
        "made_per_s": [69.61235, 70],
        "trained_per_s": [1500, 1501],
        "data_wait": [0.03, 0.02],
    }
