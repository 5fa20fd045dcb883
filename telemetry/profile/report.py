"""Writes all that a profile leaves behind: the summary for tools, the box for logs, the page for people."""

import os
from pathlib import Path

from penstock.telemetry.profile import typed_json
from penstock.telemetry.profile.measurements import Measurements
from penstock.telemetry.profile.page import draw_page
from penstock.telemetry.profile.summary import PAGE, SUMMARY, TEXT, ProfileSummary, analyse
from penstock.telemetry.profile.text import box


def write_report(folder: Path, measurements: Measurements) -> ProfileSummary:
    """Write `summary.json`, `report.txt` and `report.html` into a folder that exists; each whole or not at all.

    Returns:
        What stands in `summary.json`.

    Raises:
        ValueError: a figure is NaN or infinite.
        OSError: a file cannot be written.
    """
    summary = analyse(measurements)
    typed_json.write(folder / SUMMARY, summary)
    _write(folder / TEXT, box(summary) + "\n")
    _write(folder / PAGE, draw_page(summary))
    return summary


def _write(path: Path, text: str) -> None:
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)
