"""The last lines of this process's log, for whoever shows the run."""

import logging
from collections import deque
from typing import Self

from penstock.config.process import printable
from penstock.telemetry.run_view import EventView

KEPT = 50
"""Lines."""
_LONGEST = 300
"""Characters of a line that are kept."""


class EventLog(logging.Handler):
    """Keeps what is logged from now on. A context manager, which listens to the whole process meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self._events: deque[EventView] = deque(maxlen=KEPT)

    @property
    def last(self) -> tuple[EventView, ...]:
        """The lines that are kept, the newest last."""
        self.acquire()  # `emit` runs under the same lock
        try:
            return tuple(self._events)
        finally:
            self.release()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line: without control characters, without its traceback."""
        try:
            text = printable(record.getMessage())
        except (TypeError, ValueError):  # its values do not fit it: no reason to end whoever logs
            text = printable(str(record.msg))
        if record.exc_info and record.exc_info[1] is not None:
            text += f": {printable(repr(record.exc_info[1]))}"
        text = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
        self._events.append(EventView(at=record.created, is_warning=record.levelno >= logging.WARNING, text=text))

    def __enter__(self) -> Self:
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *exc: object) -> None:
        logging.getLogger().removeHandler(self)
