"""Looks at a rank while it runs and makes of it what terminal and page show.

One thread looks, some times a second, whatever the number of those who watch: they read what it saw last. It changes
nothing, holds locks for no longer than a count takes, and where looking takes long it looks less often.
"""

import logging
import threading
import time
from collections.abc import Hashable, Mapping, Sequence
from typing import Self

from penstock.config.process import printable
from penstock.consumer.filter_counts import FilterTotals
from penstock.consumer.group import Group
from penstock.consumer.prefetch import BatchesLook
from penstock.consumer.stream_look import StreamLook
from penstock.consumer.watching.fleet_views import FleetViews
from penstock.consumer.watching.observed import Observed
from penstock.protocol.fleet import FleetState
from penstock.protocol.ticket_table import TicketState
from penstock.telemetry.live_verdict import Pace, judge_now
from penstock.telemetry.rates import Rates
from penstock.telemetry.run_view import GroupView, QueueView, RunView, StageView
from penstock.telemetry.thumbnails import thumbnails

_log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.25
_PAUSE_PER_LOOK = 20
"""A look that takes a millisecond of a core is followed by a pause of so many, at least."""
_AFTER_DEFECT_S = 5.0
"""A pause after which what went wrong may be past."""
_STAGES_EVERY_S = 1.0
_VERDICT_S = 60.0
"""What a verdict is of: longer than a rate, so that it does not change from one moment to the next."""
_STALL_S = 5.0
"""Without a step and waiting for groups for so long, and for several steps' time, a run stalls."""
_STALL_STEPS = 8
_CURVE_POINTS = 256
_GROUP_EVERY_S = 0.5
"""Between two groups that are shown, at least, so that each can be seen and copying costs little."""
THUMBNAIL_SIDE = 128
"""Pixels of a shown image, at most, where nothing else is asked for."""
_THUMBNAILS = 16
"""Images of a group that are shown."""
_JOIN_S = 2.0


class Observer:
    """Views of a rank that runs, each from a moment ago. A context manager: within, it looks.

    Args:
        observed: the rank.
        num_groups: newest groups that a view shows; 0 copies no pixel.
        side: pixels of their images, at most.
    """

    def __init__(self, observed: Observed, num_groups: int = 0, side: int = THUMBNAIL_SIDE) -> None:
        self._looker = Looker(observed, num_groups, side)
        self._closed = threading.Event()
        self._view = self._look()
        self._thread = threading.Thread(target=self._watch, name="penstock-observer", daemon=True)

    def view(self) -> RunView:
        """The run as it was seen last. For any thread."""
        return self._view

    def end(self) -> None:
        """The steps are over, and the views say so."""
        self._looker.has_ended = True

    def close(self) -> None:
        """Look no more. Does nothing the second time."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(timeout=_JOIN_S)

    def _look(self) -> RunView:
        return self._looker.look(time.monotonic(), time.time())

    def _watch(self) -> None:
        pause_s, has_failed = LOOK_EVERY_S, False
        while not self._closed.wait(pause_s):
            began = time.thread_time()  # of this thread alone, however many share the cores
            try:
                self._view = self._look()
            except Exception:  # noqa: BLE001 - a thread's edge: who only looks must not end a run
                if not has_failed:
                    _log.exception("looking at the run has a defect, and is tried again; the run goes on")
                has_failed, pause_s = True, _AFTER_DEFECT_S
                continue
            pause_s = max(LOOK_EVERY_S, _PAUSE_PER_LOOK * (time.thread_time() - began))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Looker:
    """Makes views of a rank from one look to the next; without thread and clock.

    Args:
        observed, num_groups, side: as in `Observer`.
    """

    def __init__(self, observed: Observed, num_groups: int = 0, side: int = THUMBNAIL_SIDE) -> None:
        self._observed = observed
        self._side = side
        self._num_groups = num_groups
        if num_groups:
            observed.stream.show_newest(num_groups)
        self.has_ended = False
        self._rates = Rates()
        self._fleet = FleetViews()
        self._group_wait_s = 0.0
        """Time in which whoever prepares batches was seen to wait for a group."""
        self._looked_at: float | None = None
        self._steps = observed.steps
        self._stepped_at: float | None = None
        self._step_rate = 0.0
        """Steps a second when the last one was done."""
        self._is_stalled = False
        self._stages: Mapping[str, StageView] = {}
        self._stages_at = float("-inf")
        self._stage_counters: Mapping[Hashable, float] = {}
        self._coming: list[Group] = []
        """Groups that will be shown."""
        self._shown: list[tuple[int, GroupView]] = []
        """When each came, and what is shown of it; the newest first."""
        self._added_at = float("-inf")

    def look(self, now: float, at: float) -> RunView:
        """The run now.

        Args:
            now: seconds on the monotonic clock, later than at the look before.
            at: seconds since the epoch.
        """
        observed, config, record = self._observed, self._observed.config, self._observed.record
        steps, stream = observed.steps, observed.stream.look()
        batches = observed.batches.look() if observed.batches else None
        self._count(now, steps, stream, batches)
        state = self._state(now, steps, stream)
        rates, made, trained = self._rates, stream.stats.images, observed.images_trained
        step_rate = rates.seldom_per_s("steps")
        pace = self._pace(made, trained)
        return RunView(
            at=at,
            run_id=observed.folder.run_id,
            run_dir=printable(str(observed.folder.path)),
            objective=config.objective.name,
            state=state,
            waiting_for=self._waiting_for(state, steps, stream),
            rank=observed.rank,
            world_size=observed.world_size,
            step=steps,
            max_steps=config.max_steps,
            seconds=max(0.0, at - observed.started_at),
            images_made=made,
            images_trained=trained,
            made_per_s=rates.seldom_per_s("made"),
            trained_per_s=step_rate * observed.images_per_step,
            steps_per_s=step_rate,
            reuse=pace.reuse,
            data_wait=min(1.0, rates.per_s("data_wait")),
            bytes_per_s=rates.seldom_per_s("bytes"),
            flop_share=observed.flop_share(step_rate),
            loss=thinned(record.loss),
            knn=thinned(record.knn),
            rankme=thinned(record.rankme),
            queues=_queues(stream, batches),
            stages=self._stages,
            producers=self._fleet.views(rates, now),
            verdict=judge_now(pace),
            expired=stream.stats.expired,
            hedged=stream.stats.hedged,
            quarantined=stream.stats.quarantined,
            rejects=stream.rejects,
            filtered=_filtered(observed),
            events=observed.events.last,
            groups=self._newest_groups(now),
        )

    def _count(self, now: float, steps: int, stream: StreamLook, batches: BatchesLook | None) -> None:
        """Give the rates what has been counted so far."""
        if self._looked_at is not None and stream.waiting:
            self._group_wait_s += now - self._looked_at
        self._looked_at = now
        self._fleet.look(stream.peers, now)
        counters: dict[Hashable, float] = {
            "made": stream.stats.images,
            "bytes": stream.stats.image_bytes,
            "steps": steps,
            **self._fleet.counters,
        }
        if batches and steps > self._observed.first_step:  # the first step waits for the reservoir to fill
            counters |= {"data_wait": batches.wait_s, "group_wait": self._group_wait_s, "loop_steps": steps}
        taken = self._observed.recorder.taken() if now - self._stages_at >= _STAGES_EVERY_S else None
        if taken is not None:
            self._stage_counters = {("stage", name): stage.seconds for name, stage in taken.items()}
        self._rates.add(now, {**counters, **self._stage_counters})
        if taken is not None:
            self._stages_at = now
            self._stages = {
                name: StageView(
                    share=min(1.0, self._rates.per_s(("stage", name))),
                    p50_s=stage.quantile(0.5),
                    p95_s=stage.quantile(0.95),
                    p99_s=stage.quantile(0.99),
                )
                for name, stage in taken.items()
                if stage.count
            }

    def _pace(self, made: int, trained: int) -> Pace:
        rates = self._rates
        seconds = rates.known_for_s("loop_steps")
        steps_per_s = rates.per_s("loop_steps", _VERDICT_S)
        return Pace(
            seconds=seconds,
            steps=seconds * steps_per_s,
            data_wait=min(1.0, rates.per_s("data_wait", _VERDICT_S)),
            group_wait=rates.per_s("group_wait", _VERDICT_S),
            made_per_s=rates.per_s("made", _VERDICT_S),
            trained_per_s=steps_per_s * self._observed.images_per_step,
            reuse=trained / made if made else 0.0,
        )

    def _state(self, now: float, steps: int, stream: StreamLook) -> str:
        """`waiting`, `running`, `stalled` or `ended`."""
        if self.has_ended:
            return "ended"
        if steps != self._steps or self._stepped_at is None:
            self._steps, self._stepped_at, self._is_stalled = steps, now, False
            self._step_rate = self._rates.seldom_per_s("steps")
        if not stream.stats.groups:
            return "waiting"
        patience_s = self._observed.config.stream.stall_report_s
        if stream.waiting and self._step_rate:
            patience_s = min(patience_s, max(_STALL_S, _STALL_STEPS / self._step_rate))
        self._is_stalled = self._is_stalled or now - self._stepped_at > patience_s
        return "stalled" if self._is_stalled else "running"

    def _waiting_for(self, state: str, steps: int, stream: StreamLook) -> str | None:
        if state == "ended" or (state == "running" and steps > self._observed.first_step):
            return None  # a group now and then is no news
        if stream.fleet is FleetState.WAITING:
            return f"{stream.fleet.value}; start one: penstock produce --connect {self._observed.stream.endpoint}"
        waiting = printable(stream.waiting) if stream.waiting else None
        if state == "stalled":
            return waiting or "no group, but for the other ranks or its device"
        return waiting or (stream.fleet.value if state == "waiting" else None)

    def _newest_groups(self, now: float) -> tuple[GroupView, ...]:
        """The groups that are shown; one look adds one at most."""
        if not self._num_groups:
            return ()
        self._coming = (self._observed.stream.newest() + self._coming)[: self._num_groups]
        if self._coming and now - self._added_at >= _GROUP_EVERY_S:
            self._added_at = now
            group = self._coming.pop(0)
            view = GroupView(
                group.ticket.index,
                printable(group.ticket.recipe.prompt),
                printable(group.producer),
                thumbnails(group.images, self._side, _THUMBNAILS),
                group.images.shape,
            )
            shown = [*self._shown, (group.arrived_ns, view)]
            self._shown = sorted(shown, key=lambda pair: -pair[0])[: self._num_groups]
        return tuple(view for _, view in self._shown)


def thinned(curve: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """A curve of at most some hundred points. Those that stay do not change while more come, and the last is there."""
    points, stride = tuple(curve), 1
    while len(points) > _CURVE_POINTS * stride:
        stride *= 2
    return points if stride == 1 else (*points[:-1:stride], points[-1])


def _queues(stream: StreamLook, batches: BatchesLook | None) -> tuple[QueueView, ...]:
    """Where groups wait, in the order of their way."""
    asked = sum(count for state, count in stream.tickets.items() if state is not TicketState.BUFFERED)
    buffered = stream.tickets.get(TicketState.BUFFERED, 0)
    tickets = QueueView(name="tickets", filled=asked, capacity=stream.window_groups, nbytes=0)
    arrived = QueueView(
        name="arrived",
        filled=stream.arrived_groups + buffered,
        capacity=stream.window_groups,
        nbytes=stream.arrived_bytes,
    )
    if batches is None:
        return tickets, arrived
    return (
        tickets,
        arrived,
        QueueView(
            name="reservoir",
            filled=batches.reservoir_groups,
            capacity=batches.capacity_groups,
            nbytes=batches.reservoir_bytes,
        ),
        QueueView(name="batches", filled=int(batches.is_ready), capacity=1),
    )


def _filtered(observed: Observed) -> float | None:
    """Share of this rank's images that the filter has rejected."""
    counts = observed.batches.filter_counts if observed.batches else None
    totals = FilterTotals.of(counts.values) if counts else None
    return totals.rejected_fraction if totals else None
