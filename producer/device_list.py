"""Which devices `--devices` means on this machine, found without torch."""

import os
import re
from collections.abc import Mapping

from penstock.config.rules import require
from penstock.protocol.errors import ConfigError
from penstock.telemetry import machine

_DEVICE = re.compile(r"(?:cuda:)?(\d+)|cpu")


def find_devices(text: str, environ: Mapping[str, str] = os.environ) -> list[str]:
    """The devices that `text` names, as torch names them: `cuda:0`, `cpu`.

    GPUs are numbered as CUDA numbers them in this process: `CUDA_VISIBLE_DEVICES` counts.

    Raises:
        ConfigError: no list of devices, a GPU twice, a GPU that is not there, or `all` where there is none.
    """
    num_gpus = len(machine.nvidia_gpus()) or None  # without nvidia-smi there may be GPUs all the same
    visible = machine.visible_gpus(num_gpus, environ)
    if text.strip() == "all":
        require_some(visible, environ)
        return [f"cuda:{index}" for index in range(len(visible))]
    words = [word.strip() for word in text.split(",")]
    matches = [match for word in words if (match := _DEVICE.fullmatch(word))]
    rule = "devices must be `all` or a list such as 0,2,5 or cuda:0,cuda:1 or cpu,cpu"
    require(len(matches) == len(words), rule, text)
    devices = [f"cuda:{int(match[1])}" if match[1] else "cpu" for match in matches]
    gpus = [device for device in devices if device != "cpu"]
    require(len(set(gpus)) == len(gpus), "devices must name a GPU once", text)
    is_known = num_gpus is not None or "CUDA_VISIBLE_DEVICES" in environ
    for gpu in gpus:
        if is_known and int(gpu.removeprefix("cuda:")) >= len(visible):
            raise ConfigError(f"devices names {gpu}, and {len(visible)} GPUs are visible here{_why(environ)}")
    return devices


def require_some(visible: list[str], environ: Mapping[str, str]) -> None:
    """Raise ConfigError where `all` would be none."""
    if not visible:
        raise ConfigError(
            f"devices is `all`, and no GPU is visible here{_why(environ)}; name the devices, as in --devices cpu"
        )


def _why(environ: Mapping[str, str]) -> str:
    listed = environ.get("CUDA_VISIBLE_DEVICES")
    return "" if listed is None else f" (CUDA_VISIBLE_DEVICES is {listed!r})"
