"""Whether a process does its work, for whoever may restart it or count on it: Kubernetes' three probes.

Asked for over HTTP beside the metrics. An answer is 200 or 503 and one line for people; it names nothing secret, so
that probes need no token.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Health:
    """How a process is now."""

    started: bool
    """Its start is over: what was to be loaded is loaded."""
    alive: bool
    """It does not hang; another start would not help."""
    ready: bool
    """It works, or would at once if there were work."""
    words: str
    """The same for people, in a few words."""


STARTING: Final = Health(started=False, alive=True, ready=False, words="starting")

PROBES: Final[Mapping[str, Callable[[Health], bool]]] = {
    "/startupz": lambda health: health.started,
    "/healthz": lambda health: health.alive,
    "/readyz": lambda health: health.ready,
}
"""What is asked at which path."""
