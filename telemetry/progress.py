"""The line that shows a run while it goes: one live line on a terminal, else plain lines at intervals."""

import dataclasses
import sys
import time
from collections.abc import Callable
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.text import Text

PLAIN_INTERVAL_S = 10.0
"""Where there is no terminal a line at least this far from the last one."""
BAR_CELLS = 12


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """The figures of a run at one moment."""

    step: int
    max_steps: int
    images_made: int
    images_trained: int
    made_per_s: float
    trained_per_s: float
    reuse: float
    """Uses per image so far."""
    loss: float | None
    """None before the first step."""
    knn: float | None
    """The last kNN accuracy, 0 to 1; None before the first."""
    producers: int
    """Producers connected now."""
    data_wait: float
    """Share of the time spent waiting for images, 0 to 1."""
    rejected: float | None = None
    """Share of the images made that the filter has rejected, 0 to 1; None where nothing filters."""


class Progress:
    """Shows snapshots on `stream` (stderr by default). A context manager; `close` may be called twice.

    Args:
        stream: where to write; a terminal gets one live line, anything else plain lines.
        clock: seconds, monotonic.
    """

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = Console(file=stream or sys.stderr, highlight=False, soft_wrap=True)
        self._clock = clock
        self._last_plain_s: float | None = None
        self._last: Snapshot | None = None
        self._live: Live | None = None
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=False)
            self._live.start()

    def update(self, snapshot: Snapshot) -> None:
        """Show a snapshot; without a terminal most are passed over, never the last step's."""
        self._last = snapshot
        if self._live is not None:
            self._live.update(Text(render(snapshot, self._console.width - 1), no_wrap=True), refresh=True)
            return
        now_s = self._clock()
        due = self._last_plain_s is None or now_s - self._last_plain_s >= PLAIN_INTERVAL_S
        if due or snapshot.step >= snapshot.max_steps:
            self._last_plain_s = now_s
            self._console.print(Text(render(snapshot, None)))

    def note(self, text: str) -> None:
        """Print a line of its own above the live line."""
        self._console.print(Text(text))

    def close(self) -> None:
        """Leave the last line standing and give the terminal back."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __enter__(self) -> "Progress":
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


def render(snapshot: Snapshot, width: int | None) -> str:
    """A snapshot in at most `width` cells: what matters least is left out first. None: no limit, no bar."""
    fraction = min(snapshot.step / snapshot.max_steps, 1.0) if snapshot.max_steps else 0.0
    parts = [  # (importance, text); in the order shown
        (9, f"step {snapshot.step}/{snapshot.max_steps}"),
        (1, _bar(fraction) if width is not None else f"{fraction:.0%}"),
        (7, f"made {human(snapshot.images_made)} ({human(snapshot.made_per_s)}/s)"),
        (6, f"trained {human(snapshot.images_trained)} ({human(snapshot.trained_per_s)}/s)"),
        (4, f"reuse {snapshot.reuse:.1f}"),
        (8, "loss -" if snapshot.loss is None else f"loss {snapshot.loss:.3f}"),
        (5, "kNN -" if snapshot.knn is None else f"kNN {snapshot.knn:.1%}"),
        (3, f"wait {snapshot.data_wait:.1%}"),
        (2, f"{snapshot.producers} producer" + ("" if snapshot.producers == 1 else "s")),
    ]
    if snapshot.rejected is not None:
        parts.insert(3, (3, f"rejected {snapshot.rejected:.1%}"))
    while width is not None and len(parts) > 1 and cell_len(_join(parts)) > width:
        parts.remove(min(parts))
    return _join(parts)


def human(number: float) -> str:
    """A count in at most five characters: `7.4`, `412`, `25.6k`, `1.2M`."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= size:
            return f"{number / (1e3 if suffix == 'k' else size):.1f}{suffix}"
    return f"{number:.0f}" if number >= 100 or number == int(number) else f"{number:.1f}"


def _join(parts: list[tuple[int, str]]) -> str:
    return "  ".join(text for _, text in parts)


def _bar(fraction: float) -> str:
    done = round(fraction * BAR_CELLS)
    return "━" * done + "╌" * (BAR_CELLS - done)
