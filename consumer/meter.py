"""What a run has done so far, over all ranks: rates, reuse, waiting."""

import time
from dataclasses import dataclass

from accelerate import Accelerator

from penstock.consumer.feed import Feed
from penstock.consumer.ranks import sum_over_ranks
from penstock.consumer.stream import GroupStream


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts over all ranks since the start of this life."""

    images_made: int
    images_made_in_loop: int
    """Those that came after the loop began: what the rate is made of."""
    images_trained: int
    bytes_received: int
    producers: int
    """Producers connected to this rank now."""
    producers_seen: int
    loop_s: float
    """Time since the loop began."""
    data_wait: float
    """Mean share of the loop's time that a rank waited for groups."""

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
    """Adds up what the ranks have done. `begin` marks the start of the loop."""

    def __init__(self, accelerator: Accelerator, stream: GroupStream, feed: Feed, images_per_step: int) -> None:
        self._accelerator = accelerator
        self._stream = stream
        self._feed = feed
        self._images_per_step = images_per_step
        self._steps = 0
        self._images_before = 0
        self._begun = time.perf_counter()

    def begin(self) -> None:
        """The loop starts now."""
        self._images_before = self._stream.stats.images
        self._begun = time.perf_counter()

    def step(self) -> None:
        """One optimizer step is done."""
        self._steps += 1

    def totals(self) -> Totals:
        """Counts over all ranks. All ranks call it together."""
        stats = self._stream.stats
        mine = [stats.images, stats.images - self._images_before, stats.image_bytes, self._feed.wait_s]
        images, images_in_loop, image_bytes, wait_s = sum_over_ranks(self._accelerator, mine)
        loop_s = time.perf_counter() - self._begun
        return Totals(
            images_made=int(images),
            images_made_in_loop=int(images_in_loop),
            images_trained=self._steps * self._images_per_step,
            bytes_received=int(image_bytes),
            producers=stats.producers,
            producers_seen=stats.producers_seen,
            loop_s=loop_s,
            data_wait=wait_s / self._accelerator.num_processes / loop_s if loop_s else 0.0,
        )
