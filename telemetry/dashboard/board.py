"""What all open pages read: the run is looked at once for all of them, and each is told what it has not seen.

A page that reads slowly is told less, never late: what it has missed has been replaced by then. While no page is open
nothing is written down but the rates, which a page that is opened later shows from the beginning.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from penstock.telemetry.dashboard import messages
from penstock.telemetry.dashboard.rate_history import RateHistory, RatePoint
from penstock.telemetry.run_view import GroupView, RunView

MAX_LISTENERS = 16
"""Pages that are open at a time."""


@dataclass(slots=True)
class _Seen:
    """What one page has been told."""

    version: int = -1
    learning: str = ""
    groups: set[int] = field(default_factory=set)
    group_at: float = float("-inf")
    """When it was last told of a group."""


class Board:
    """Looks at a run at equal distances, and tells whoever listens. For one event loop.

    Args:
        every_s: between two looks.
        group_every_s: between two new groups, so that people can read their prompts; the newest is told, and those in
            between are passed over.
        hello: the first message of all, so that a page knows whom it has reached.
        secret: the token, which stands in the log; pages do not show it, since people share pictures of them.
    """

    def __init__(self, every_s: float, group_every_s: float, hello: str, secret: str | None = None) -> None:
        self._source: Callable[[], RunView] | None = None
        self._every_s = every_s
        self._group_every_s = group_every_s
        self._hello = hello
        self._secret = secret
        self._history = RateHistory()
        self._view: RunView | None = None
        self._version = 0
        self._figures: tuple[int, str] = (-1, "")
        self._rates: tuple[int, str] = (-1, "")
        self._learning: tuple[object, str] = (None, "")
        self._groups: dict[int, str] = {}
        self._changed = asyncio.Event()
        self.num_listeners = 0
        self._over_because = ""
        self.is_over = False

    # --- the run ------------------------------------------------------------------------------------------------------

    async def keep(self) -> None:
        """Look again and again, until the run is over."""
        while not self.is_over:
            self.look()
            await asyncio.sleep(self._every_s)

    def show(self, source: Callable[[], RunView]) -> None:
        """Look at `source` from now on, in the loop's thread. For any thread."""
        self._source = source

    def look(self) -> None:
        """Look once, if there is something to look at."""
        if self._source is None:
            return
        view = self._source()
        self._history.add(RatePoint(view.seconds, view.made_per_s, view.trained_per_s, view.data_wait))
        self._view = view
        self._version += 1
        self._wake()

    def end(self, because: str) -> None:
        """The run is over; say so, and let all listeners end.

        Args:
            because: why, where it did not end as it should; else empty.
        """
        self._over_because = because
        self.is_over = True
        self.look()
        self._wake()

    def _wake(self) -> None:
        """Let all listeners look for news."""
        self._changed.set()
        self._changed = asyncio.Event()

    # --- the pages ----------------------------------------------------------------------------------------------------

    async def listen(self) -> AsyncIterator[str]:
        """All that a page is told, as server-sent events, until the run is over."""
        seen = _Seen()
        self.num_listeners += 1
        try:
            yield _event("hello", self._hello)
            while True:
                changed, is_over = self._changed, self.is_over
                told = "".join(self._news(seen))
                if told:
                    yield told
                if is_over:
                    yield _event("over", json.dumps(self._over_because))
                    return
                if changed is self._changed:
                    await changed.wait()
        finally:
            self.num_listeners -= 1

    def now(self) -> str:
        """The figures as they are, for whoever asks once; empty before the run has begun."""
        return self._told_figures()

    def _news(self, seen: _Seen) -> Iterator[str]:
        view = self._view
        if view is None or seen.version == self._version:
            return
        seen.version = self._version
        yield _event("figures", self._told_figures())
        yield _event("rates", self._told_rates())
        if seen.learning != (learning := self._told_learning(view)):
            seen.learning = learning
            yield _event("learning", learning)
        if groups := self._due(view, seen):
            yield _event("groups", f"[{','.join(self._told(group) for group in groups)}]")

    def _due(self, view: RunView, seen: _Seen) -> Sequence[GroupView]:
        """The groups to tell of now: at first all that there are, later the newest from time to time."""
        unseen = [group for group in view.groups if group.index not in seen.groups]
        is_first = not seen.groups
        if not unseen or time.monotonic() < seen.group_at + self._group_every_s:
            return ()
        # Newest first. Those that are passed over stay so: a page goes on, not back.
        seen.groups = {group.index for group in view.groups}
        seen.group_at = time.monotonic()
        return unseen if is_first else unseen[:1]

    def _told_figures(self) -> str:
        if self._figures[0] != self._version and self._view is not None:
            self._figures = self._version, messages.figures(self._without_secret(self._view))
        return self._figures[1]

    def _without_secret(self, view: RunView) -> RunView:
        secret = self._secret
        if not secret:
            return view
        return replace(view, events=[replace(event, text=event.text.replace(secret, "…")) for event in view.events])

    def _told_rates(self) -> str:
        if self._rates[0] != self._version:
            self._rates = self._version, messages.rates(self._history.points)
        return self._rates[1]

    def _told_learning(self, view: RunView) -> str:
        key = (len(view.loss), view.loss[-1:], len(view.knn), view.knn[-1:], view.rankme[-1:])
        if self._learning[0] != key:
            self._learning = key, messages.learning(view)
        return self._learning[1]

    def _told(self, group: GroupView) -> str:
        """One group; its images are made small once for all pages."""
        if self._view is not None:
            there = {shown.index for shown in self._view.groups}
            self._groups = {index: told for index, told in self._groups.items() if index in there}
        if group.index not in self._groups:
            self._groups[group.index] = messages.group(group)
        return self._groups[group.index]


def _event(name: str, data: str) -> str:
    """One server-sent event. JSON has no line breaks of its own."""
    return f"event: {name}\ndata: {data}\n\n"
