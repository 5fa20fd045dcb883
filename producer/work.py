"""What an engine has done so far: images, and the arithmetic that they took."""

import threading
import time
from dataclasses import dataclass, field

from penstock.protocol.watching import Status


@dataclass(slots=True)
class Work:
    """Counts since the engine was loaded. The arithmetic is that of denoiser and decoder, padded rows included."""

    images: int = 0
    groups: int = 0
    """That could travel."""
    flops: float | None = None
    """Floating point operations, two for each product and sum; None where the engine does not know."""
    matrix_flops_per_s: float | None = None
    """What large matrix products reach on the device, measured when the engine was loaded."""
    diversity: float | None = None
    """Mean distance between the images of a prompt as a share of that between prompts, of late; None where too few
    groups were made."""
    scored: int = 0
    """Images that a filter has judged."""
    rejected: int = 0
    """Images of them that were not kept."""
    seconds: float = 0.0
    """Time in which the engine was busy with what is finished."""
    longest_s: float = 0.0
    """Longest time in which it was busy and finished nothing, before a batch that it did finish."""
    _num_begun: int = field(default=0, init=False, repr=False)
    """Batches that are begun and not finished."""
    _counted_to: float = field(default=0.0, init=False, repr=False)
    """Up to when its time is counted, while there are any; monotonic."""
    _changing: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)
    """Guards these and the seconds: one thread begins, one finishes, and others look."""

    def begin(self) -> None:
        """The engine begins a batch, at times before the one ahead of it is finished."""
        with self._changing:
            if not self._num_begun:
                self._counted_to = time.monotonic()
            self._num_begun += 1

    def end(self) -> None:
        """Of the batches that are begun the oldest is finished, or given up."""
        with self._changing:
            now = time.monotonic()
            took_s = now - self._counted_to
            self.seconds += took_s
            self.longest_s = max(self.longest_s, took_s)
            self._counted_to = now
            self._num_begun -= 1

    @property
    def busy_s(self) -> float:
        """Time in which the engine was busy, with what is not finished yet too: it grows while a batch is made."""
        return sum(self._times())

    @property
    def status(self) -> Status:
        """What ranks are told of it."""
        finished_s, unfinished_s = self._times()
        return Status(
            images=self.images,
            busy_s=finished_s,
            unfinished_s=unfinished_s,
            flops=self.flops or 0.0,
            matrix_flops_per_s=self.matrix_flops_per_s or 0.0,
        )

    def _times(self) -> tuple[float, float]:
        """Seconds of work on what is finished, and on what is not."""
        with self._changing:
            return self.seconds, time.monotonic() - self._counted_to if self._num_begun else 0.0

    def describe(self) -> str:
        """One line for the log."""
        if not self.images or not self.seconds:
            return "no image"
        text = f"{self.images} images in {self.seconds:.0f} s of work: {self.images / self.seconds:.3g} images/s"
        if self.flops is not None:
            rate = self.flops / self.seconds
            text += f", {_scaled(self.flops / self.images)}FLOP an image, {_scaled(rate)}FLOP/s"
            if self.matrix_flops_per_s is not None:
                text += f" ({rate / self.matrix_flops_per_s:.0%} of what matrix products reach here)"
        if self.diversity is not None:
            text += f"; diversity within prompts {self.diversity:.2f}"
        if self.scored:
            text += f"; {self.rejected} of {self.scored} rejected by the filter"
        return text


def _scaled(value: float) -> str:
    """A number with a prefix of the metric system and a blank before its unit."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}"
    return f"{value:.3g} "
