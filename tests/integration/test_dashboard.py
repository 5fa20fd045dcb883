"""A real run watched in a real browser: images that change, a producer that is killed, a trainer that is started again.

With `PENSTOCK_SCREENSHOTS=docs` the run is long enough for curves, and its pictures are put into that folder.
"""

import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser import NARROW, WIDE, Opened, chromium
from tests.faults.programs import Program
from tests.faults.scene import free_port

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SCREENSHOTS = os.environ.get("PENSTOCK_SCREENSHOTS", "")
pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(900 if SCREENSHOTS else 280)]
SMALL = ["--groups-per-step", "8", "--reservoir.capacity-groups", "16", "--stream.window-groups", "16"]
SMALL += ["--evaluation.data", "none"]
RICH = ["--evaluation.every-steps", "20", "--max-steps", "400"]
SHOWN_STEP = 160
"""Of the run that is long enough for curves."""
END_S = 15.0
"""From a signal to the end of a trainer whose page is open, on a busy machine."""


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    with chromium() as found:
        yield found


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


class Run:
    """A trainer with a page, and producers that are not its own."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._run_dir = "runs/page" if SCREENSHOTS else str(folder / "demo")  # the pictures show it
        self.endpoint = f"tcp://127.0.0.1:{free_port()}"

    def trainer(self, dashboard: str = "127.0.0.1:0") -> Program:
        command = ["-m", "penstock.consumer", "--config", "demo", "--fleet.local-producers", "0"]
        command += [*(RICH if SCREENSHOTS else SMALL), "--run-dir", self._run_dir, "--overwrite"]
        command += ["--stream.endpoint", self.endpoint, "--dashboard", dashboard]
        return self._keep(Program(command, self._folder / "trainer.log"))

    def producer(self, name: str) -> Program:
        command = ["-m", "penstock.producer", "--config", "demo", "--connect", self.endpoint, "--name", name]
        return self._keep(Program(command, self._folder / f"{name}.log"))

    def _keep(self, program: Program) -> Program:
        self._stack.callback(program.kill)
        return program


def page_url(trainer: Program) -> str:
    """Where the log says that the page is."""
    trainer.until_log("the run's page is at ")
    found = re.search(r"the run's page is at (\S+)", trainer.output)
    assert found is not None
    return found[1]


def test_a_run_is_watched_from_its_beginning_to_its_end(browser: "Browser", stack: ExitStack, tmp_path: Path) -> None:
    run = Run(tmp_path, stack)
    trainer = run.trainer()
    url = page_url(trainer)
    opened = Opened(browser, url)
    stack.callback(opened.context.close)
    page = opened.page
    page.set_default_timeout(120_000)
    page.get_by_text("waiting for the first producer").wait_for()
    producers = {name: run.producer(name) for name in ("producer-0", "producer-1")}
    opened.wait("document.body.dataset.state === 'running'", 120)

    # The newest images, under their prompts, and others after a while.
    opened.wait("[...document.querySelectorAll('#newest img')].some((image) => image.naturalWidth === 32)", 60)
    assert page.locator("#newest h3").inner_text().startswith("a handwritten ")
    index, first = page.locator("#newest").get_attribute("data-index"), page.locator("#newest img").first
    source = first.get_attribute("src")
    opened.wait(f"document.querySelector('#newest').dataset.index !== '{index}'", 60)
    assert first.get_attribute("src") != source

    # Curves, of the steps and of the time.
    opened.wait("['loss', 'rates', 'wait'].every((name) => document.querySelector(`#chart-${name}.drawn canvas`))", 120)
    assert page.locator("#fleet tr").count() == 2
    if SCREENSHOTS:
        opened.wait(f"Number(document.querySelector('#step').textContent) >= {SHOWN_STEP}", 700)
        _shoot(browser, url, Path(SCREENSHOTS))

    # A producer is killed: its row goes red, and up.
    producers["producer-1"].send(signal.SIGKILL)
    opened.wait("document.querySelector('#fleet tr').dataset.state === 'gone'", 60)
    assert page.locator("#fleet tr th").first.inner_text() == "producer-1"
    red, green, blue = page.locator("#fleet tr td").first.evaluate(
        "cell => getComputedStyle(cell).color.match(/\\d+/g).slice(0, 3).map(Number)"
    )
    assert red > max(green, blue) + 60
    if SCREENSHOTS:
        page.locator(".fleet").screenshot(path=Path(SCREENSHOTS) / "dashboard-producer-lost.png")

    # The trainer is killed, and started again at the same address.
    life = page.locator("#run-id").inner_text()
    trainer.kill()
    page.get_by_text("The trainer cannot be reached").wait_for()
    trainer = run.trainer(url.removeprefix("http://").rstrip("/"))
    opened.wait(f"!['–', '{life}'].includes(document.querySelector('#run-id').textContent)", 120)

    # It is asked to end while the page is open.
    asked = trainer.send(signal.SIGTERM)
    assert trainer.end(END_S) == 143
    assert time.monotonic() - asked < END_S
    page.get_by_text("The run is over: it was stopped").wait_for()
    assert opened.errors == []


def _shoot(browser: "Browser", url: str, folder: Path) -> None:
    """What the documentation shows: by day, by night, and on a phone."""
    for scheme, size, name in (("dark", WIDE, "dark"), ("light", WIDE, "light"), ("dark", NARROW, "phone")):
        opened = Opened(browser, url, size, scheme)
        opened.wait("document.querySelectorAll('#earlier li').length >= 8", 60)
        opened.shoot(folder / f"dashboard-{name}.png")
        opened.context.close()


def test_a_taken_port_ends_a_trainer_in_one_line_and_costs_no_earlier_run(stack: ExitStack, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    taken = listener.getsockname()[1]
    command = ["-m", "penstock.consumer", "--config", "demo", "--run-dir", str(folder), "--overwrite"]
    trainer = Program([*command, "--dashboard", str(taken)], tmp_path / "trainer.log")
    stack.callback(trainer.kill)
    assert trainer.end() == 1
    assert trainer.output.splitlines() == [
        f"error: dashboard: cannot listen at 127.0.0.1, port {taken}: Address already in use; choose another address "
        "(port 0 takes a free one)"
    ]
    assert (folder / "run.json").exists()


def test_a_page_beyond_this_machine_is_told_with_a_token(stack: ExitStack, tmp_path: Path) -> None:
    trainer = Run(tmp_path, stack).trainer("0.0.0.0:0")
    assert re.fullmatch(r"http://[^/]+:\d+/\?token=[\w-]{32}", page_url(trainer))
