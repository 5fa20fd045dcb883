"""What shows a run to people while it goes on: on the terminal one line or the whole picture."""

import os
from contextlib import ExitStack

from penstock.consumer.observed import Observed
from penstock.consumer.observing import Observer
from penstock.telemetry.progress import Progress
from penstock.telemetry.terminal.view import TerminalView, is_wanted

_SHOWN_GROUPS = 8


class Views:
    """All views of rank 0, which end with `stack` at the latest.

    Args:
        observed: the rank.
        stack: closes them.
    """

    def __init__(self, observed: Observed, stack: ExitStack) -> None:
        self._observer: Observer | None = None
        is_shared = os.environ.get("LOCAL_WORLD_SIZE", "1") != "1"
        if is_wanted(observed.config.view, is_shared=is_shared):
            self._observer = stack.enter_context(Observer(observed, _SHOWN_GROUPS))
            self.terminal: Progress | TerminalView = stack.enter_context(TerminalView(self._observer.view))
            """Gets the figures of every report."""
        else:
            self.terminal = stack.enter_context(Progress())

    def end(self) -> None:
        """The steps are over."""
        if self._observer:
            self._observer.end()
