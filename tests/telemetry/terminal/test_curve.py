"""Curves of braille characters, dot by dot (Unicode, Braille Patterns: which bit is which dot)."""

import pytest

from penstock.telemetry.terminal.curve import draw

# Bits of the dots of one character: left column from above, then the right one.
LEFT, RIGHT = (0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80)


def dots(lines: list[str]) -> set[tuple[int, int]]:
    """Which dots are there: (column from the left, row from below)."""
    found = set()
    for row, line in enumerate(lines):
        for cell, char in enumerate(line):
            for column, bits in enumerate((LEFT, RIGHT)):
                for part, bit in enumerate(bits):
                    if (ord(char) - 0x2800) & bit:
                        found.add((2 * cell + column, 4 * (len(lines) - row) - 1 - part))
    return found


def test_a_level_line_is_one_row_of_dots() -> None:
    assert dots(draw([(0, 1.0), (10, 1.0)], 5, 2, 0.0, 7.0, 10)) == {(x, 1) for x in range(10)}


def test_a_straight_line_rises_dot_by_dot() -> None:
    assert dots(draw([(0, 0.0), (7, 7.0)], 4, 2, 0.0, 7.0, 7)) == {(x, x) for x in range(8)}


def test_a_steep_line_has_no_gaps() -> None:
    assert dots(draw([(0, 0.0), (1, 7.0)], 1, 2, 0.0, 7.0, 1)) == {(0, 0), *((1, y) for y in range(1, 8))}


def test_the_curve_ends_at_its_last_point_and_fills_as_far_as_the_run_is() -> None:
    assert max(x for x, _ in dots(draw([(0, 1.0), (50, 1.0)], 10, 1, 0.0, 2.0, 100))) == 10  # 50 of 100 on 20 dots


def test_points_in_one_place_are_their_mean() -> None:
    points = [(0, 0.0), (1, 6.0), (1000, 3.0)]
    assert (0, 3) in dots(draw(points, 2, 2, 0.0, 7.0, 1000))


@pytest.mark.parametrize("points", [[], [(5, 2.0)], [(5, 2.0), (6, 2.0)], [(1, 9.0), (2, -9.0)]])
def test_any_points_make_a_picture_of_the_size_asked_for(points: list[tuple[int, float]]) -> None:
    lines = draw(points, 7, 3, 2.0, 2.0, points[-1][0] if points else 0)
    assert [len(line) for line in lines] == [7, 7, 7]
    assert bool(dots(lines)) == bool(points)
