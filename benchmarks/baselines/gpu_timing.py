"""Times on a GPU: one session knows the device, the time left and what could not be measured."""

import statistics
import time
from collections.abc import Callable

import torch

try:
    from triton.errors import TritonError
except ImportError:  # then no kernel is compiled
    TritonError = RuntimeError


class Session:
    """Measures until `budget_s` is used up; what is asked for later is noted as not measured."""

    def __init__(self, device: torch.device, budget_s: float) -> None:
        self.device = device
        self.started = time.monotonic()
        self.not_measured: dict[str, str] = {}
        self._budget_s = budget_s
        # A rehearsal on the CPU measures nothing: once is enough.
        self._enough_s = 3.0 if device.type == "cuda" else 0.0

    @property
    def is_over(self) -> bool:
        """Whether the time is used up."""
        return time.monotonic() - self.started > self._budget_s

    def skip(self, name: str, reason: str) -> None:
        """Note that something cannot be measured, and why."""
        self.not_measured[name] = reason
        print(f"{name}: not measured: {reason}", flush=True)

    def time(self, name: str, call: Callable[[], object], repeats: int = 20) -> tuple[float, int] | None:
        """Median seconds of `call`, and the most bytes that it held beside what was there.

        The first call warms up: it compiles. At most `repeats` calls and about three seconds; on a CPU one. None, with
        a note, where the time is used up, the memory does not suffice or the call needs what this machine lacks.
        """
        if self.is_over:
            self.skip(name, f"the {self._budget_s:.0f} s were used up")
            return None
        try:
            return self._time(call, repeats)
        except torch.OutOfMemoryError:
            self.skip(name, "does not fit the memory")
        except (ImportError, RuntimeError, ValueError, TritonError) as error:
            # A side that another card or version refuses must not cost the figures of the rest.
            self.skip(name, f"{type(error).__name__}: {(str(error).splitlines() or ['no text'])[0]}")
        self.empty_cache()
        return None

    def _time(self, call: Callable[[], object], repeats: int) -> tuple[float, int]:
        self.empty_cache()
        before = self._allocated()
        call()
        self._synchronise()
        peak = torch.cuda.max_memory_allocated() - before if self.device.type == "cuda" else 0
        if self._enough_s:
            call()
            self._synchronise()
        seconds: list[float] = []
        while not seconds or (len(seconds) < repeats and sum(seconds) < self._enough_s):
            start = time.perf_counter()
            call()
            self._synchronise()
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds), peak

    def empty_cache(self) -> None:
        """Give free memory back, so that one side's leftovers are not another's want."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def _allocated(self) -> int:
        return torch.cuda.memory_allocated() if self.device.type == "cuda" else 0

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
