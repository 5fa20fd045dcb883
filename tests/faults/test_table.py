"""The table of faults can be read in a terminal of 120 columns."""

from tests.faults.table import WIDTH, Row, render

ROWS = [
    Row("a short one", "ticket", "lives", "lived", 0.44, ok=True),
    Row("a fault whose name is long " * 3, "", "that it is expected to go on " * 3, "that it did " * 9, None, ok=False),
]


def test_no_line_is_wider_than_a_terminal() -> None:
    assert max(map(len, render(ROWS).splitlines())) <= WIDTH


def test_every_cell_is_whole() -> None:
    text = " ".join(render(ROWS).split())
    for words in ("a short one", "lived", "0.4", "ok", "MISS"):
        assert words in text
    assert text.count("long") == 3
    assert text.count("did") == 9


def test_the_last_line_counts_the_misses() -> None:
    assert render(ROWS).splitlines()[-1].startswith("2 faults, 1 missed")
