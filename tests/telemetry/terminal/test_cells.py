"""Pieces of the picture have the width that they say, whatever is in them."""

import pytest
from rich.text import Text

from penstock.telemetry.terminal.cells import bar, beside, box, clock, ends, fit, nbytes, seconds


@pytest.mark.parametrize(
    "text", ["", "short", "a line that is far too long for its place", "数字の七を手で書いた", "é" * 30]
)
@pytest.mark.parametrize("width", [1, 2, 11, 12])
def test_a_fitted_line_has_its_width_also_where_characters_take_two_cells(text: str, width: int) -> None:
    assert fit(Text(text), width).cell_len == width


def test_what_does_not_fit_ends_in_an_ellipsis() -> None:
    assert fit(Text("a long line"), 6).plain == "a lon…"


def test_two_ends_share_a_line_and_the_right_one_stays_whole() -> None:
    assert ends(Text("left"), Text("right"), 12).plain == "left   right"
    assert ends(Text("left side"), Text("right"), 8).plain == "le…right"


def test_blocks_of_unequal_height_stand_beside_each_other() -> None:
    assert [line.plain for line in beside([Text("a"), Text("b")], [Text("c")], 3, 2, 7)] == ["a    c ", "b      "]


def test_a_box_frames_its_lines() -> None:
    assert [line.plain for line in box("way", [Text("in")], 12, "dim")] == [
        "╭─ way ────╮",
        "│ in       │",
        "╰──────────╯",
    ]


@pytest.mark.parametrize(
    ("share", "full"), [(0.0, 0), (0.001, 1), (0.5, 5), (0.96, 9), (0.999, 9), (1.0, 10), (1.7, 10)]
)
def test_a_bar_shows_what_is_there_and_is_full_only_where_it_is(share: float, full: int) -> None:
    assert bar(10, (share, "#", "")).plain == "#" * full + "╌" * (10 - full)


def test_a_bar_of_two_shares_shows_both() -> None:
    assert bar(10, (0.3, "#", ""), (0.2, "-", "")).plain == "###--╌╌╌╌╌"
    assert bar(10, (0.01, "#", ""), (0.99, "-", "")).plain == "#---------"
    assert bar(10, (0.0, "#", ""), (1.0, "-", "")).plain == "-" * 10


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((None, "-"), (float("nan"), "-"), (0.0000004, "0 µs"), (0.000312, "312 µs"), (0.0042, "4.2 ms")),
        *((0.031, "31 ms"), (0.99, "990 ms"), (0.9996, "1.0 s"), (1.24, "1.2 s"), (9.96, "10 s"), (61.2, "61 s")),
        *((99.6, "1:40"), (4000.0, "1:06:40")),
    ],
)
def test_durations_are_short(value: float | None, text: str) -> None:
    assert seconds(value) == text


def test_long_times_are_clocks_and_bytes_have_units() -> None:
    assert [clock(value) for value in (0, 59.6, 600, 3661)] == ["0:00", "1:00", "10:00", "1:01:01"]
    sizes = (0, 812, 1000, 4_200_000, 126e6, 3.2e12)
    assert [nbytes(value) for value in sizes] == ["0 B", "812 B", "1.0 kB", "4.2 MB", "126 MB", "3.2 TB"]
