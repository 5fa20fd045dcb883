"""The report as a reader meets it: in a browser, wide and narrow, by day and by night, without a network.

    PENSTOCK_SCREENSHOTS=docs pytest tests/telemetry/profile/test_page_in_browser.py

profiles the demo first, and leaves the first screen of its report as `profile.png` in that folder.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.telemetry.profile.report import write_report
from tests.telemetry.profile.measured import measured

browsers = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SCREENSHOTS = os.environ.get("PENSTOCK_SCREENSHOTS")
WIDE, NARROW = (1200, 900), (390, 844)

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium"),
    pytest.mark.timeout(600 if SCREENSHOTS else 120),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a report: of a real profile where pictures of it are asked for."""
    folder = tmp_path_factory.mktemp("profile")
    if SCREENSHOTS:
        penstock = [sys.executable, "-c", "from penstock.deploy.cli import main; main()"]
        command = [*penstock, "profile", "--config", "demo", "--out", folder]
        subprocess.run(command, check=True, timeout=500, env=os.environ | {"OMP_NUM_THREADS": "1"})
    else:
        write_report(folder, measured())
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def chromium() -> Iterator["browsers.Browser"]:
    with browsers.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_the_page_fits_and_can_be_read(
    chromium: "browsers.Browser", report: str, size: tuple[int, int], scheme: str
) -> None:
    context = chromium.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, offline=True)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("request", lambda request: complaints.append(request.url) if request.url != report else None)
    page.goto(report)
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    # The answer is on the first screen, whole.
    answer = page.locator(".verdict .next").bounding_box()
    assert answer is not None
    assert answer["y"] + answer["height"] <= size[1]
    # One of the two drawings of each figure is shown, and none is empty or cut.
    shown = [box for box in (svg.bounding_box() for svg in page.locator("svg").all()) if box]
    assert len(shown) == page.locator(".figure").count() >= 5
    assert all(box["width"] > 200 and box["height"] > 60 for box in shown)
    assert _contrast(page) > 4.5  # WCAG AA
    assert complaints == []
    if SCREENSHOTS and (size, scheme) == (WIDE, "light"):
        page.screenshot(path=Path(SCREENSHOTS) / "profile.png")
    context.close()


def test_a_bar_has_the_colour_of_its_side_and_is_as_long_as_its_rate(chromium: "browsers.Browser", report: str) -> None:
    if SCREENSHOTS:
        pytest.skip("expects the fixture's rates")
    context = chromium.new_context(viewport={"width": WIDE[0], "height": WIDE[1]}, color_scheme="light")
    page = context.new_page()
    page.goto(report)
    fills = (
        page.locator(".figure")
        .first.locator(".wide svg path")
        .evaluate_all("paths => paths.map(path => [getComputedStyle(path).fill, path.getBoundingClientRect().width])")
    )
    widths = dict(fills)
    # e·P = 400 and T = 1,000 images/s: #2f6f9f and #c2512f of the style sheet.
    assert widths["rgb(194, 81, 47)"] / widths["rgb(47, 111, 159)"] == pytest.approx(2.5, rel=0.01)
    context.close()


def _contrast(page: "browsers.Page") -> float:
    """Between the text of the verdict and the box that it stands in, as WCAG counts it."""
    colours = page.evaluate(
        """() => [getComputedStyle(document.querySelector('.verdict .next')).color,
                  getComputedStyle(document.querySelector('.verdict')).backgroundColor]"""
    )
    light, dark = sorted((_luminance(colour) for colour in colours), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    """Of `rgb(r, g, b)`."""
    parts = [int(part) / 255 for part in colour[4:-1].split(",")]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
