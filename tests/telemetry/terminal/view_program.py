"""A program with the full view, for a terminal of the test: what it does is its argument."""

import logging
import sys
import threading
import time

from penstock.config.process import configure_logging, run
from penstock.protocol.errors import RunError
from penstock.telemetry.run_view import RunView
from penstock.telemetry.terminal.view import TerminalView, is_wanted
from tests.telemetry.views import run_view

_STARTED = time.monotonic()


def look() -> RunView:
    """A run whose clock goes on."""
    return run_view(seconds=60.0 + time.monotonic() - _STARTED)


def main() -> int:
    """Show the view until the end that is asked for."""
    what = sys.argv[1]
    configure_logging("rank 0")
    sys.stdout.write("before the view\n")
    if not is_wanted("auto", is_shared=False):
        sys.stdout.write("plain lines\n")
        threading.Event().wait(3600)
    with TerminalView(look):
        logging.getLogger("penstock.test").warning("a line of the log")
        sys.stdout.write("a printed line\n")
        if what == "error":
            time.sleep(1)
            raise RunError("the run cannot go on")
        if what == "defect":
            time.sleep(1)
            raise ZeroDivisionError("a defect")
        if what == "end":
            time.sleep(1)
        else:
            threading.Event().wait(3600)
    sys.stdout.write("after the view\n")
    return 0


if __name__ == "__main__":
    run(main)
