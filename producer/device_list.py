"""Which devices `--devices` means on this machine, found without torch."""

import os
import re
from collections.abc import Mapping

from penstock.config.rules import require
from penstock.protocol.errors import ConfigError
from penstock.telemetry import machine

_DEVICE = re.compile(r"(?:cuda:)?(\d+)|cpu")
_RANGE = re.compile(r"(\d{1,3})-(\d{1,3})")


def find_devices(text: str, environ: Mapping[str, str] = os.environ, name: str = "devices") -> list[str]:
    """The devices that `text` names, as torch names them: `cuda:0`, `cpu`.

    GPUs are numbered as CUDA numbers them in this process: `CUDA_VISIBLE_DEVICES` counts.

    Args:
        text: what the user wrote.
        environ: the environment.
        name: of the setting, for the error.

    Raises:
        ConfigError: no list of devices, a GPU twice, a GPU that is not there, or `all` where there is none.
    """
    num_gpus = len(machine.nvidia_gpus()) or None
    visible = machine.visible_gpus(num_gpus, environ)
    if text.strip() == "all":
        require_some(visible, environ, name)
        return [f"cuda:{index}" for index in range(len(visible))]
    words = [each for word in text.split(",") for each in _spread(word.strip())]
    matches = [match for word in words if (match := _DEVICE.fullmatch(word))]
    rule = f"{name} must be `all` or a list such as 0,2,5 or 0-3,6 or cuda:0,cuda:1 or cpu,cpu"
    require(len(matches) == len(words), rule, text)
    devices = [f"cuda:{int(match[1])}" if match[1] else "cpu" for match in matches]
    gpus = [device for device in devices if device != "cpu"]
    require(len(set(gpus)) == len(gpus), f"{name} must name a GPU once", text)
    # Without nvidia-smi there may be GPUs all the same.
    is_known = num_gpus is not None or "CUDA_VISIBLE_DEVICES" in environ or not machine.may_have_gpus()
    for gpu in gpus:
        if is_known and int(gpu.removeprefix("cuda:")) >= len(visible):
            there = {0: "no GPU is", 1: "1 GPU is"}.get(len(visible), f"{len(visible)} GPUs are")
            hint = "" if visible else "; cpu is a device, too"
            raise ConfigError(f"{name} names {gpu}, and {there} visible here{_why(environ)}{hint}")
    return devices


def require_some(visible: list[str], environ: Mapping[str, str], name: str = "devices") -> None:
    """Raise ConfigError where `all` would be none."""
    if not visible:
        flag = f"--{name.replace('_', '-')}"
        raise ConfigError(
            f"{name} is `all`, and no GPU is visible here{_why(environ)}; name the devices, as in {flag} cpu"
        )


def _spread(word: str) -> list[str]:
    """A range as its devices, the last one included; any other word as it is."""
    match = _RANGE.fullmatch(word)
    if match is None or int(match[2]) < int(match[1]):
        return [word]
    return [str(number) for number in range(int(match[1]), int(match[2]) + 1)]


def _why(environ: Mapping[str, str]) -> str:
    listed = environ.get("CUDA_VISIBLE_DEVICES")
    return "" if listed is None else f" (CUDA_VISIBLE_DEVICES is {listed!r})"
