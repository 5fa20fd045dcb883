"""A module in the place of `pynvml`, for machines whose GPUs the test makes up."""

import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


class NVMLError(Exception):
    """As the binding's."""


class NotSupportedError(NVMLError):
    """The binding's `NVMLError_NotSupported`."""


@dataclass
class FakeNvml:
    """What `pynvml` would say."""

    uuids: list[str] = field(default_factory=lambda: ["GPU-aa11-x", "GPU-aa22-y", "GPU-bb33-z"])
    names: list[str | bytes] = field(default_factory=lambda: ["NVIDIA H200"] * 3)
    lacks: set[str] = field(default_factory=set)
    """Functions that this GPU does not support."""
    fails: dict[str, Exception] = field(default_factory=dict)
    """What functions raise."""
    asked: list[str] = field(default_factory=list)
    """Identifiers of the GPUs whose temperature was asked for."""

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put it where `import pynvml` looks."""
        module: Any = ModuleType("pynvml")
        module.NVMLError, module.NVMLError_NotSupported = NVMLError, NotSupportedError
        module.NVML_TEMPERATURE_GPU, module.NVML_CLOCK_SM = 0, 1
        answers = {
            "nvmlInit": lambda: None,
            "nvmlDeviceGetCount": lambda: len(self.uuids),
            "nvmlDeviceGetHandleByIndex": lambda index: self.uuids[index],
            "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
            "nvmlDeviceGetUUID": lambda handle: handle,
            "nvmlDeviceGetName": lambda handle: self.names[self.uuids.index(handle) if handle in self.uuids else 0],
            "nvmlDeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu=97, memory=40),
            "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=150_754_820_096, used=41_200_000_000),
            "nvmlDeviceGetPowerUsage": lambda handle: 612_345,
            "nvmlDeviceGetTemperature": lambda handle, sensor: self.asked.append(handle) or 64,
            "nvmlDeviceGetClockInfo": lambda handle, clock: 1980 if clock == 1 else 0,
        }
        for name, answer in answers.items():
            setattr(module, name, self._function(name, answer))
        monkeypatch.setitem(sys.modules, "pynvml", module)

    def _function(self, name: str, answer: Any) -> Any:
        def call(*args: Any) -> Any:
            if name in self.fails:
                raise self.fails[name]
            if name in self.lacks:
                raise NotSupportedError("Not Supported")
            return answer(*args)

        return call
