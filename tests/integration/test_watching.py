"""A real run in a real terminal: what somebody sees who watches it, in good times and bad."""

import os
import re
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.telemetry.terminal.pseudo_terminal import PseudoTerminal, save_svg

RUN = [
    sys.executable,
    "-m",
    "penstock.consumer",
    "--config",
    "demo",
    "--max-steps",
    "5000",
    "--evaluation.data",
    "none",
]
RUN += ["--groups-per-step", "8", "--reservoir.capacity-groups", "16", "--stream.window-groups", "16"]
RUN += ["--reservoir.reuse", "4", "--generator.images-per-group", "4", "--fleet.local-producers", "2"]
WAIT_S = 110.0


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(300)
def test_a_terminal_shows_a_run_its_lost_producer_and_its_stall_and_is_given_back(tmp_path: Path) -> None:
    env = {"OMP_NUM_THREADS": "1", "COLORTERM": "truecolor"}
    with PseudoTerminal(120, 40, [*RUN, "--run-dir", str(tmp_path / "run")], wait_s=WAIT_S, **env) as terminal:
        terminal.shows("joined")  # on the first screen, or among the events
        terminal.shows("2/2 ready")
        assert terminal.is_second_screen
        terminal.shows("BOUND")  # a verdict
        terminal.shows("LOSS")
        assert "NEWEST  a handwritten" in terminal.text
        terminal.shows("% of FLOP/s")
        producers = {
            process.cmdline()[-1]: process
            for process in psutil.Process(terminal.pid).children()
            if "penstock.producer" in process.cmdline()
        }
        assert sorted(producers) == ["local-0", "local-1"]

        producers["local-1"].kill()
        terminal.until(lambda: bool(_rows(terminal, "local-1", "gone")))
        [mark] = {terminal.screen.buffer[row][0].fg for row in _rows(terminal, "local-1", "gone")}
        assert mark == "red"

        producers["local-0"].suspend()
        terminal.shows("STALLED  ")
        assert "local-0" in terminal.text
        producers["local-0"].resume()
        terminal.until(lambda: "running" in terminal.text.splitlines()[0])

        terminal.press("\x03")
        began = time.monotonic()
        assert terminal.ended() == 128 + signal.SIGINT
        assert time.monotonic() - began < 15
        assert terminal.is_given_back
        # What was logged meanwhile stands there now, and last the line of the last report.
        assert "producer local-1 ended" in terminal.text
        assert terminal.text.strip().splitlines()[-1].startswith("step ")


@pytest.mark.skipif("PENSTOCK_SCREENSHOTS" not in os.environ, reason="set PENSTOCK_SCREENSHOTS=docs to draw it anew")
@pytest.mark.timeout(600)
def test_a_screenshot_for_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(os.environ["PENSTOCK_SCREENSHOTS"]).resolve()
    monkeypatch.chdir(tmp_path)
    command = [*RUN, "--run-dir", "runs/train", "--evaluation.data", "toyworld", "--evaluation.every-steps", "25"]
    with PseudoTerminal(120, 40, command, wait_s=500, OMP_NUM_THREADS="1", COLORTERM="truecolor") as terminal:
        terminal.until(lambda: bool(re.search(r"kNN .*step [1-9]\d\d", terminal.text)) and "NEWEST" in terminal.text)
        save_svg(terminal, folder / "watching.svg", "penstock train")


def _rows(terminal: PseudoTerminal, *words: str) -> list[int]:
    return [row for row, line in enumerate(terminal.screen.display) if all(f" {word} " in line for word in words)]
