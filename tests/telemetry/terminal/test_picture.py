"""The picture of a run: never more than the screen, and what an operator looks for is there."""

from dataclasses import replace

import numpy as np
import pytest
from rich.text import Text

from penstock.telemetry.run_view import EventView
from penstock.telemetry.summary import Verdict
from penstock.telemetry.terminal.picture import (
    MIN_HEIGHT,
    MIN_WIDTH,
    has_room_for_sheet,
    picture,
    sheet_size,
)
from penstock.telemetry.terminal.sheet import sheet
from tests.telemetry.views import group, producer, run_view

SIZES = [(72, 20), (80, 24), (80, 50), (100, 30), (110, 24), (120, 40), (200, 50), (300, 90)]
STATES = ["ready", "warming", "suspect", "stalled", "draining", "gone"]
LONG = "数字の七を手で書いた " * 30
VIEWS = {
    "usual": run_view(),
    "new": run_view(
        state="waiting",
        waiting_for="waiting for the first producer",
        step=0,
        steps_per_s=0.0,
        producers=(),
        queues=(),
        stages={},
        loss=(),
        knn=(),
        events=(),
    ),
    "large": replace(
        run_view(),
        step=123_456_789,
        max_steps=1_000_000_000,
        seconds=1e6,
        images_made=10**10,
        producers=tuple(producer(f"gpu-{number}", STATES[number % 6]) for number in range(500)),
        events=tuple(EventView(at=0.0, is_warning=True, text=LONG) for _ in range(50)),
        rejects={"bad_crc": 10**6},
        flop_share=0.4,
    ),
    "strange": run_view(
        run_dir="/a/very/long/path" * 20,
        state="stalled",
        waiting_for=LONG,
        producers=(producer(LONG, "gone", device=LONG), producer("", "no state")),
        verdict=Verdict("something else", LONG, LONG),
        world_size=8,
    ),
}


def text_of(lines: list[Text]) -> str:
    return "\n".join(line.plain for line in lines)


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_picture_fills_its_lines_and_never_more_than_the_screen(name: str, width: int, height: int) -> None:
    shown = sheet(group(7), *sheet_size(width)) if has_room_for_sheet(width, height) else []
    lines = picture(VIEWS[name], width, height, shown)
    assert len(lines) <= height
    assert {line.cell_len for line in lines} == {width}
    assert not any("\n" in line.plain for line in lines)


def test_every_size_from_the_smallest_on_has_a_picture() -> None:
    for width in range(MIN_WIDTH, 130):
        for height in (MIN_HEIGHT, 22, 23, 29, 30, 41):
            assert len(picture(VIEWS["usual"], width, height)) <= height
    with pytest.raises(ValueError, match="72 x 20 cells at least, got 71 x 20"):
        picture(VIEWS["usual"], MIN_WIDTH - 1, MIN_HEIGHT)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (200, 50)])
def test_what_an_operator_looks_for_is_there(width: int, height: int) -> None:
    text = text_of(picture(VIEWS["usual"], width, height))
    for wanted in (
        *("runs/demo", "step 340/900", "38%", "1:01 so far, 1:52 left"),  # 560 steps, five a second
        *("69.9 images/s", "2/2 ready", "1540 images/s", "3 here", "27 asked", "231/256", "used 21.2×", "waits 3%"),
        *("BALANCED", "add to both sides", "producer-1", "11/16", "kNN  80.8%", "producer-0 is ready"),
        f"LOSS  {VIEWS['usual'].loss[-1][1]:.3f}",
    ):
        assert wanted in text


def test_a_small_terminal_shows_the_producers_in_trouble_first_and_counts_the_others() -> None:
    text = text_of(picture(VIEWS["large"], 80, 24))
    shown = [line for line in text.splitlines() if " gpu-" in line]
    assert shown
    assert not any("ready" in line for line in shown)
    assert "84 ready" in text  # of 500 every sixth


def test_a_producer_that_is_gone_has_no_rate_but_what_it_made() -> None:
    view = run_view(producers=(producer("spot", "gone", images=800, silent_s=74.0, images_per_s=0.0),))
    [line] = [line.plain for line in picture(view, 80, 24) if "spot" in line.plain]
    assert "gone" in line
    assert "800 images; last heard 74 s ago" in line


def test_a_stalled_run_says_what_it_waits_for_in_place_of_a_verdict() -> None:
    text = text_of(picture(run_view(state="stalled", waiting_for="ticket 9, held by producer-1"), 80, 24))
    assert "STALLED  ticket 9, held by producer-1" in text
    assert "BALANCED" not in text


def test_the_newest_events_are_shown_whole_and_warnings_are_marked() -> None:
    events = tuple(EventView(at=0.0, is_warning=number == 29, text=f"event {number}") for number in range(30))
    text = text_of(picture(run_view(events=events), 80, 24))
    assert "▲ event 29" in text
    assert "  event 28" in text
    assert "event 0 " not in text


def test_what_a_filter_rejects_stands_by_the_producers() -> None:
    assert "rejects 12%" in text_of(picture(run_view(filtered=0.125), 80, 24))
    assert "8160 images" in text_of(picture(run_view(), 80, 24))


def test_an_event_that_has_room_in_part_is_cut_and_the_newer_ones_are_whole() -> None:
    events = (
        EventView(at=0.0, is_warning=False, text="word " * 50),
        EventView(at=0.0, is_warning=False, text="newest"),
    )
    lines = [line.plain.rstrip() for line in picture(run_view(events=events), 80, 24)]
    assert lines[-1].endswith("newest")
    assert lines[-2].endswith("…")


def test_faults_are_counted_above_the_events() -> None:
    view = run_view(expired=2, hedged=1, rejects={"bad_crc": 3, "late": 1})
    assert "2 asked for again, 1 asked for twice, 4 messages refused" in text_of(picture(view, 80, 24))


def test_a_sheet_shows_two_pixels_a_cell_under_the_prompt() -> None:
    grey = replace(group(7), images=np.full((2, 32, 32, 3), 200, dtype=np.uint8))
    lines = sheet(grey, 40, 10)
    assert lines[0].plain.startswith("NEWEST  three lemons on a blue plate")
    assert {line.cell_len for line in lines} == {40}
    [first, *_] = lines[1].spans
    assert (lines[1].plain[0], str(first.style)) == ("▀", "#c8c8c8 on #c8c8c8")  # 200 is c8
