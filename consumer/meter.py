"""What a run has done so far, over all ranks and all its lives: rates, reuse, waiting."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from accelerate import Accelerator

from penstock.consumer.prefetch import Prefetcher
from penstock.consumer.ranks import sum_over_ranks
from penstock.consumer.stream import GroupStream


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Counts over all ranks since the beginning of the run; of earlier lives, what stands in their last checkpoint."""

    steps: int = 0
    """Optimizer steps."""
    seconds: float = 0.0
    """Time since the programs of the run were started, one after another."""
    images_made: int = 0
    images_made_in_loop: int = 0
    """Those that came after the loop began: what the rate is made of."""
    images_trained: int = 0
    bytes_received: int = 0
    rejected: int = 0
    """Messages dropped."""
    expired: int = 0
    """Attempts that ran out of their lease or their deadline."""
    hedged: int = 0
    """Tickets that were handed to a second producer."""
    quarantined: int = 0
    """Tickets that got a stand-in."""
    producers: int = 0
    """Producers connected to this rank now."""
    producers_seen: int = 0
    """Most producers connected at a time."""
    loop_s: float = 0.0
    """Time in the training loop."""
    wait_s: float = 0.0
    """Part of it that a rank waited for its batch; mean over the ranks."""
    groups_by_uses: tuple[int, ...] = ()
    """How many groups have been used u times so far, at place u."""
    filter_counts: tuple[int, ...] = ()
    """As `FilterCounts.values`; empty where nothing filters."""
    groups_by_concept: tuple[int, ...] = ()
    """How many of the groups that have been used are of each concept, and last, of none; empty where there are none."""

    @property
    def data_wait(self) -> float:
        """Share of the loop's time that a rank waited for its batch."""
        return self.wait_s / self.loop_s if self.loop_s else 0.0

    @property
    def made_per_s(self) -> float:
        """Images made per second of the loop."""
        return self.images_made_in_loop / self.loop_s if self.loop_s else 0.0

    @property
    def trained_per_s(self) -> float:
        """Images trained on per second."""
        return self.images_trained / self.loop_s if self.loop_s else 0.0

    @property
    def reuse(self) -> float:
        """Uses per image so far; the images still unused count as made."""
        return self.images_trained / self.images_made if self.images_made else 0.0


class Meter:
    """Adds up what the ranks have done. `begin` marks the start of the loop.

    Args:
        accelerator, stream, batches: of this rank.
        images_per_step: over all ranks.
        max_reuse: uses that no group exceeds.
        started: `time.perf_counter` at the start of this life.
        earlier: what earlier lives have done.
        num_concepts: of the prompts.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        stream: GroupStream,
        batches: Prefetcher,
        images_per_step: int,
        max_reuse: int,
        started: float,
        earlier: Totals,
        num_concepts: int = 0,
    ) -> None:
        self._accelerator = accelerator
        self._stream = stream
        self._batches = batches
        self._images_per_step = images_per_step
        self._max_reuse = max_reuse
        self._started = started
        self._earlier = earlier
        self._num_concepts = num_concepts
        self._steps = 0
        self._images_before = 0
        self._begun = started

    def begin(self) -> None:
        """The loop starts now."""
        self._images_before = self._stream.stats.images
        self._begun = time.perf_counter()

    def step(self) -> None:
        """One optimizer step is done."""
        self._steps += 1

    def totals(self) -> Totals:
        """Counts over all ranks. All ranks call it together."""
        stats, earlier = self._stream.stats, self._earlier
        mine = [stats.images, stats.images - self._images_before, stats.image_bytes, self._batches.wait_s]
        mine += [stats.rejected, stats.expired, stats.hedged, stats.quarantined]
        uses = self._batches.groups_by_uses
        num_uses = self._max_reuse + 1
        mine += [*uses, *[0] * (num_uses - len(uses))]
        if self._num_concepts:
            by_concept = self._batches.groups_by_concept
            mine += [by_concept[concept] for concept in (*range(self._num_concepts), -1)]
        filtered = self._batches.filter_counts.values if self._batches.filter_counts else []
        summed = sum_over_ranks(self._accelerator, [*mine, *filtered])
        images, images_in_loop, image_bytes, wait_s, *counts = summed[: len(mine)]
        rejected, expired, hedged, quarantined, *rest = (int(count) for count in counts)
        by_uses, of_concepts = rest[:num_uses], rest[num_uses:]
        now = time.perf_counter()
        return Totals(
            steps=earlier.steps + self._steps,
            seconds=earlier.seconds + now - self._started,
            images_made=earlier.images_made + int(images),
            images_made_in_loop=earlier.images_made_in_loop + int(images_in_loop),
            images_trained=earlier.images_trained + self._steps * self._images_per_step,
            bytes_received=earlier.bytes_received + int(image_bytes),
            rejected=earlier.rejected + rejected,
            expired=earlier.expired + expired,
            hedged=earlier.hedged + hedged,
            quarantined=earlier.quarantined + quarantined,
            producers=stats.producers,
            producers_seen=max(earlier.producers_seen, stats.producers_seen),
            loop_s=earlier.loop_s + now - self._begun,
            wait_s=earlier.wait_s + wait_s / self._accelerator.num_processes,
            groups_by_uses=_add(earlier.groups_by_uses, by_uses),
            groups_by_concept=_add(earlier.groups_by_concept, of_concepts),
            filter_counts=_add(earlier.filter_counts, [int(count) for count in summed[len(mine) :]]),
        )


def _add(earlier: Sequence[int], now: Sequence[int]) -> tuple[int, ...]:
    """The counts of two lives, place by place."""
    return tuple(map(sum, zip_longest(earlier, now, fillvalue=0)))
