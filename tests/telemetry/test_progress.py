"""The progress line: whole where there is room, shorter where there is not, sparse where nobody watches."""

import io
from dataclasses import replace

import pytest

from penstock.telemetry.progress import Progress, Snapshot, human, render


def snapshot(step: int, max_steps: int = 600) -> Snapshot:
    return Snapshot(
        step=step,
        max_steps=max_steps,
        images_made=12_345,
        images_trained=30_720,
        made_per_s=38.23,
        trained_per_s=812.2,
        reuse=12.2,
        loss=2.3131,
        knn=0.652,
        producers=1,
        data_wait=0.004,
    )


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_shows_everything_where_there_is_room() -> None:
    assert render(snapshot(120), None) == (
        "step 120/600  20%  made 12.3k (38.2/s)  trained 30.7k (812/s)  reuse 12.2  loss 2.313  kNN 65.2%"
        "  wait 0.4%  1 producer"
    )


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 140])
def test_a_narrow_terminal_gets_a_shorter_line_that_keeps_the_step(width: int) -> None:
    line = render(snapshot(120), width)
    assert len(line) <= width
    assert line.startswith("step 120/600")


def test_what_a_filter_rejects_stands_in_the_line_where_there_is_one() -> None:
    assert "kNN 65.2%  wait" in render(snapshot(120), None)
    assert "made 12.3k (38.2/s)  rejected 12.5%  trained" in render(replace(snapshot(120), rejected=0.125), None)


def test_before_the_first_step_nothing_is_made_up() -> None:
    empty = Snapshot(
        step=0,
        max_steps=0,
        images_made=0,
        images_trained=0,
        made_per_s=0,
        trained_per_s=0,
        reuse=0,
        loss=None,
        knn=None,
        producers=0,
        data_wait=0,
    )
    assert "loss -  kNN -" in render(empty, None)
    assert render(empty, None).endswith("0 producers")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (7.44, "7.4"),
        (412.3, "412"),
        (9999, "9999"),
        (25_600, "25.6k"),
        (1.2e6, "1.2M"),
        (3e9, "3.0G"),
    ],
)
def test_counts_are_short(number: float, text: str) -> None:
    assert human(number) == text


def test_without_a_terminal_lines_come_at_intervals_and_at_the_end() -> None:
    now_s = 0.0
    stream = io.StringIO()
    with Progress(stream, clock=lambda: now_s) as progress:
        for step in range(1, 61):
            progress.update(snapshot(step, max_steps=60))
            now_s += 0.5
    steps = [line.split()[1] for line in stream.getvalue().splitlines()]
    assert steps == ["1/60", "21/60", "41/60", "60/60"]  # every 10 s, and the last
    assert "\x1b" not in stream.getvalue()


def test_a_terminal_gets_one_live_line_and_gets_its_cursor_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    progress = Progress(stream)
    progress.update(snapshot(1))
    progress.note("producer 2 has joined")
    progress.update(snapshot(2))
    progress.close()
    progress.close()
    shown = stream.getvalue()
    assert "\x1b[?25l" in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("step 2/600")
    assert "producer 2 has joined\n" in shown
    assert "\x1b[2K" in shown
