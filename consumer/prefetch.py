"""Prepares the next batch while a step runs: a thread that waits for groups, collates, and sends the batch on its way.

At most one batch is ready beside the one that is trained on, so that what is prepared is fresh and memory is bounded. A
batch counts from the moment its step takes it: only then the ledger names it, and only its own state may go into a
checkpoint. What was prepared and not taken is made again by the next life.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch

from penstock.consumer.batch import Batch
from penstock.consumer.feed import Feed, Prepared
from penstock.consumer.feed_state import FeedState
from penstock.consumer.filter_counts import FilterCounts
from penstock.consumer.group import Group
from penstock.consumer.ledger import Ledger
from penstock.protocol.errors import RunError
from penstock.telemetry.recorder import Flow, Recorder

_JOIN_S = 5.0
"""How long `close` waits for the thread: it may be in the middle of a copy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchesLook:
    """What waits for the steps to come, at one moment."""

    reservoir_groups: int
    reservoir_bytes: int
    capacity_groups: int
    """Groups that the reservoir can keep."""
    is_ready: bool
    """Whether the next step's batch is ready."""
    wait_s: float
    """Seconds that the training thread has waited, the wait that is going on included."""


class Prefetcher:
    """Batches of one rank, each prepared while the step before it runs. A context manager.

    Args:
        feed: this rank's; from now on the thread's.
        ledger: this rank's; written by the thread that takes.
        device: where the batches go. To a GPU they are copied on a stream of their own.
        steps: whose batches are prepared; none beyond them.
        keeps_state: whether a checkpoint may follow a step.
        filter_counts: told of every group; None where nothing filters.
        recorder: takes note of waits, copies and uses; without one the batches have their own.
    """

    def __init__(
        self,
        feed: Feed,
        ledger: Ledger,
        device: torch.device,
        steps: range,
        keeps_state: Callable[[int], bool] = lambda step: False,
        filter_counts: FilterCounts | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self._recorder = recorder or Recorder()
        self._feed = feed
        self._ledger = ledger
        self._device = device
        self._steps = steps
        self._keeps_state = keeps_state
        self.filter_counts = filter_counts
        """What the filter has done to the groups that were taken."""
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._changed = threading.Condition()
        """Guards what follows; notified when it changes."""
        self._ready: Prepared | None = None
        self._copied: torch.cuda.Event | None = None
        self._wants_next = True
        self._error: BaseException | None = None
        self._closed = False
        self._state: FeedState | None = None
        self.wait_s = 0.0
        """Seconds that `take` has waited."""
        self._waits_since_ns: int | None = None
        """Since when it waits, on the monotonic clock; None where it does not."""
        self.groups_by_uses: list[int] = [0]
        """How many groups have been used u times, at place u: what this life adds to those before it."""
        self.groups_by_concept: Counter[int] = Counter()
        """How many groups of each concept were used for the first time: what this life adds. -1 is no concept."""
        self._thread = threading.Thread(target=self._work, name="penstock-prefetch", daemon=True)

    def take(self, step: int) -> Batch:
        """The batch of optimizer step `step`, on the device; the next one is prepared from now on.

        Raises what the feed raises, RunError after `close`, and ValueError where it is not the next of `steps`.
        """
        if step not in self._steps:
            raise ValueError(f"steps {self._steps.start} to {self._steps.stop - 1} are prepared, got {step}")
        start_ns = time.monotonic_ns()
        with self._changed:
            self._waits_since_ns = start_ns
            self._changed.wait_for(lambda: self._ready or self._error or self._closed)
            prepared, copied = self._ready, self._copied
            if prepared is None or self._closed:
                raise self._error or RunError("the prefetcher is closed")
            if prepared.step != step:
                raise ValueError(f"steps must be taken in their order: {prepared.step} is next, got {step}")
            self._ready, self._wants_next = None, True
            self._changed.notify_all()
            # Both at once: who looked in between would count this wait twice.
            now_ns = time.monotonic_ns()
            self.wait_s += (now_ns - start_ns) / 1e9
            self._waits_since_ns = None
        self._recorder.add("wait_batch", start_ns, now_ns)
        if copied is not None:
            _hand_over(prepared.batch, copied)
        self._account(prepared)
        self._note_uses(prepared, now_ns)
        return prepared.batch

    @property
    def state(self) -> FeedState:
        """Where the rank stands after the step taken last. Raises ValueError where `keeps_state` did not ask for it."""
        if self._state is None:
            raise ValueError("the state after this step was not asked for")
        return self._state

    def newest(self, num_groups: int) -> list[Group]:
        """As `Feed.newest`; after `close`."""
        return self._feed.newest(num_groups)

    def look(self) -> BatchesLook:
        """How much is in memory now, and how long it was waited for. For any thread."""
        with self._changed:
            since_ns = self._waits_since_ns
            waits_s = 0.0 if since_ns is None else (time.monotonic_ns() - since_ns) / 1e9
            wait_s = self.wait_s + waits_s
        return BatchesLook(
            wait_s=wait_s,
            reservoir_groups=self._feed.num_kept,
            reservoir_bytes=self._feed.kept_bytes,
            capacity_groups=self._feed.capacity_groups,
            is_ready=self._ready is not None,
        )

    def close(self) -> None:
        """End the thread, waiting or not. Does nothing the second time."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._feed.abandon()
            self._thread.join(timeout=_JOIN_S)

    def _account(self, prepared: Prepared) -> None:
        """The step has its batch: let the ledger and the counts say so."""
        for group, name in zip(prepared.entered, prepared.entered_concepts, strict=True):
            self._ledger.group(group, name)
            if self.filter_counts:
                self.filter_counts.add(group)
        for record in prepared.quarantined:
            self._ledger.quarantined(record)
        self._ledger.step(prepared.step, prepared.batch.indices)
        counts = self.groups_by_uses
        counts += [0] * (max(prepared.uses) + 2 - len(counts))
        counts[0] += prepared.num_new
        for uses, concept in zip(prepared.uses, prepared.concepts, strict=True):
            counts[uses] -= 1
            counts[uses + 1] += 1
            self.groups_by_concept[concept] += uses == 0
        self._state = prepared.state

    def _note_uses(self, prepared: Prepared, now_ns: int) -> None:
        """A group's way ends where it is used for the first time."""
        for key, arrived_ns, uses in zip(prepared.keys, prepared.arrived_ns, prepared.uses, strict=True):
            self._recorder.observe("sample_age", now_ns - arrived_ns)
            if uses == 0:
                self._recorder.mark("use", key.index, key.attempt, Flow.END)

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            for step in self._steps:
                with self._changed:
                    self._changed.wait_for(lambda: self._wants_next or self._closed)
                    if self._closed:
                        return
                    self._wants_next = False
                prepared = self._feed.prepare(step, keeps_state=self._keeps_state(step))
                with self._recorder.span("copy"):
                    prepared, copied = self._send(prepared)
                with self._changed:
                    self._ready, self._copied = prepared, copied
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - a thread's edge: the training thread raises it
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _send(self, prepared: Prepared) -> tuple[Prepared, "torch.cuda.Event | None"]:
        """Begin the copy to the device; on a GPU without waiting for it."""
        if self._copies is None:
            return replace(prepared, batch=prepared.batch.to(self._device)), None
        with torch.cuda.stream(self._copies):
            batch = prepared.batch.to(self._device)
            return replace(prepared, batch=batch), self._copies.record_event()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _hand_over(batch: Batch, copied: "torch.cuda.Event") -> None:
    """Let the training stream wait for the copy, and the allocator know that it reads what another stream wrote."""
    stream = torch.cuda.current_stream(batch.images.device)
    stream.wait_event(copied)
    for tensor in (batch.images, batch.prompt_ids, batch.concepts, batch.token_ids):
        if tensor is not None:
            tensor.record_stream(stream)
