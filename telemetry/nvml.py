"""How a GPU is doing, as NVIDIA's management library (NVML) tells it, without CUDA and without torch.

NVML comes with the driver; its Python binding `pynvml` (package nvidia-ml-py, in the extra `gpu`) is optional, and so
is every figure: what a GPU, a driver or a container does not tell is None. NVML counts all GPUs of the machine in the
order of the PCI bus, CUDA only those of `CUDA_VISIBLE_DEVICES`, so an index of CUDA is translated first.
"""

import functools
import importlib
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from penstock.telemetry.machine import visible_gpus

_log = logging.getLogger(__name__)

T = TypeVar("T")

NOT_INSTALLED = "nvidia-ml-py is not installed"
INSTALL = "pip install -e '.[gpu]'"
"""What to do about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuHealth:
    """One GPU at one moment. None: it does not say."""

    name: str
    utilisation_percent: int | None
    """Share of the last moments in which any kernel ran."""
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    power_w: float | None
    temperature_c: int | None
    sm_clock_mhz: int | None

    def __str__(self) -> str:
        used, total = self.memory_used_bytes, self.memory_total_bytes
        figures = [
            None if self.utilisation_percent is None else f"{self.utilisation_percent}% busy",
            None if used is None or total is None else f"{used / 1e9:.1f} of {total / 1e9:.1f} GB",
            None if self.power_w is None else f"{self.power_w:.0f} W",
            None if self.temperature_c is None else f"{self.temperature_c} °C",
            None if self.sm_clock_mhz is None else f"SM clock {self.sm_clock_mhz} MHz",
        ]
        return ", ".join([self.name, *(figure for figure in figures if figure is not None)])


class _UnknownGpuError(Exception):
    """Which GPU an index of CUDA means cannot be told, or there is none."""


class Nvml:
    """A connection to NVML, opened when it is first needed.

    Args:
        environ: where `CUDA_VISIBLE_DEVICES` stands.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = environ
        self._said: set[str] = set()
        self._library: Any = None
        self._why_not: str | None = None

    @property
    def why_not(self) -> str | None:
        """Why there are no figures; None where NVML answers."""
        if self._library is None and self._why_not is None:
            self._library, self._why_not = _open()
        return self._why_not

    def read(self, index: int) -> GpuHealth | None:
        """How `cuda:INDEX` is doing; None where that cannot be told, which is said in the log once. Never raises."""
        if self.why_not is not None:
            advice = f" ({INSTALL})" if self.why_not == NOT_INSTALLED else ""
            self._say(f"no figures of GPUs: {self.why_not}{advice}")
            return None
        try:
            return self._ask(self._handle(index))
        except _UnknownGpuError as error:
            self._say(f"no figures of cuda:{index}: {error}")
        except _errors(self._library) as error:
            self._say(f"no figures of cuda:{index}: NVML says {error}")
        return None

    def _say(self, why: str) -> None:
        if why not in self._said:
            self._said.add(why)
            _log.warning("%s", why)

    def _handle(self, index: int) -> Any:
        """NVML's handle of what CUDA calls `index`."""
        nvml = self._library
        num_gpus = nvml.nvmlDeviceGetCount()
        visible = visible_gpus(num_gpus, self._environ)
        if index >= len(visible):
            listed = self._environ.get("CUDA_VISIBLE_DEVICES")
            raise _UnknownGpuError(
                f"the driver has {num_gpus} GPUs, and CUDA_VISIBLE_DEVICES "
                f"{'is not set' if listed is None else f'is {listed!r}'}"
            )
        name = visible[index]
        if name.startswith("MIG-"):
            return nvml.nvmlDeviceGetHandleByUUID(name)
        handles = [nvml.nvmlDeviceGetHandleByIndex(number) for number in range(num_gpus)]
        if name.startswith("GPU-"):  # CUDA takes the beginning of an identifier, NVML only the whole
            found = [handle for handle in handles if _text(nvml.nvmlDeviceGetUUID(handle)).startswith(name)]
            if len(found) != 1:
                raise _UnknownGpuError(f"{len(found)} GPUs have an identifier that begins with {name}")
            return found[0]
        in_bus_order = self._environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
        if not in_bus_order and len({_text(nvml.nvmlDeviceGetName(handle)) for handle in handles}) > 1:
            # CUDA's own order is fastest first.
            raise _UnknownGpuError("this machine's GPUs differ, and only CUDA_DEVICE_ORDER=PCI_BUS_ID says which it is")
        return handles[int(name)]

    def _ask(self, handle: Any) -> GpuHealth:
        nvml = self._library
        memory = self._figure(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
        power_mw = self._figure(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        return GpuHealth(
            name=_text(nvml.nvmlDeviceGetName(handle)),
            utilisation_percent=self._figure(lambda: int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)),
            memory_used_bytes=None if memory is None else int(memory.used),
            memory_total_bytes=None if memory is None else int(memory.total),
            power_w=None if power_mw is None else power_mw / 1000,
            temperature_c=self._figure(
                lambda: int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            ),
            sm_clock_mhz=self._figure(lambda: int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))),
        )

    def _figure(self, ask: Callable[[], T]) -> T | None:
        """One figure; None where this GPU has it not (a MIG slice no utilisation, a virtual one no power)."""
        try:
            return ask()
        except self._library.NVMLError_NotSupported:
            return None


def read(index: int) -> GpuHealth | None:
    """How `cuda:INDEX` of this process is doing; None where that cannot be told, which is said in the log once."""
    return _of_this_process().read(index)


@functools.cache
def _of_this_process() -> Nvml:
    return Nvml()


def _open() -> tuple[Any, str | None]:
    """The library, ready to be asked, or why there is none."""
    try:
        library = importlib.import_module("pynvml")
    except ImportError:
        return None, NOT_INSTALLED
    try:
        library.nvmlInit()
    except _errors(library) as error:
        return None, f"NVML says {error}"
    return library, None


def _errors(library: Any) -> tuple[type[Exception], ...]:
    """What the binding raises: NVML's own errors, and what an older library or another `pynvml` lacks."""
    own = getattr(library, "NVMLError", None)
    return (OSError, AttributeError, TypeError, ValueError) + ((own,) if own is not None else ())


def _text(value: str | bytes) -> str:
    """Older bindings answer in bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value
