"""What shows a run to people while it goes on: on the terminal one line or the whole picture, and the live page."""

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

from penstock.consumer.watching.observed import Observed
from penstock.consumer.watching.observing import THUMBNAIL_SIDE, Observer
from penstock.telemetry.progress import Progress
from penstock.telemetry.terminal.view import TerminalView, is_wanted

if TYPE_CHECKING:
    from penstock.telemetry.dashboard.server import Dashboard

_SHOWN_GROUPS = 8
_PAGE_SIDE = 256
"""Pixels of an image on the page, at most."""


class Views:
    """All views of rank 0, which end with `stack` at the latest.

    Args:
        observed: the rank.
        stack: closes them.
        dashboard: the live page; None for none.
    """

    def __init__(self, observed: Observed, stack: ExitStack, dashboard: "Dashboard | None") -> None:
        self._observer: Observer | None = None
        is_shared = os.environ.get("LOCAL_WORLD_SIZE", "1") != "1"
        is_full = is_wanted(observed.config.view, is_shared=is_shared)
        if is_full or dashboard:
            side = _PAGE_SIDE if dashboard else THUMBNAIL_SIDE
            self._observer = stack.enter_context(Observer(observed, _SHOWN_GROUPS, side))
        if dashboard and self._observer:
            dashboard.show(self._observer.view)
        if is_full and self._observer:
            self.terminal: Progress | TerminalView = stack.enter_context(TerminalView(self._observer.view))
            """Gets the figures of every report."""
        else:
            self.terminal = stack.enter_context(Progress())

    @property
    def have_figures(self) -> bool:
        """Whether they show more than the line does."""
        return self._observer is not None

    def end(self) -> None:
        """The steps are over."""
        if self._observer:
            self._observer.end()
